# SPDX-License-Identifier: Apache-2.0
"""What the emulator does not do; ``--help`` and ``docs/emulator.md`` show the list."""

LIMITATIONS = """\
* No model: answers are made from the prompt, embeddings from a hash. Media in prompts is neither fetched nor looked at.
* No tokenizer: four characters are a token, a picture is 258.
* No webhooks: `webhookConfig` is accepted and stored, nothing is ever delivered, and `/webhooks` does not exist.
* No `embedContent`, no streaming (plain `generateContent` and `countTokens` are there), no cached contents, tuning, or
  interactions.
* No OpenAI-compatible front door, no `alt=proto`, no `files:register`, no files without content. A file of
  OpenAI-shaped lines is read.
* No quota over time but the limit on spending: 429 comes from the number of active jobs, from enqueued tokens, or from
  a fault.
* No permissions beyond the knobs, no regions beyond names, no encryption keys, no TLS.
* No `pattern` in schemas: text for a member with one is made as if it had none.
* Priority is stored and changes nothing: every job runs by its own clock.
* BigQuery: tables can be created, filled and read; there are no queries.
* Nothing is kept after the process ends.
"""
