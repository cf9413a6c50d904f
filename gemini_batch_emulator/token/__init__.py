# SPDX-License-Identifier: Apache-2.0
"""Access tokens: OAuth token endpoint, IAM Credentials and Security Token Service, as far as google-auth asks them."""

from gemini_batch_emulator.token.desk import SigningKey, TokenDesk, create_service_account, make_signing_key, token_desk

__all__ = ["SigningKey", "TokenDesk", "create_service_account", "make_signing_key", "token_desk"]
