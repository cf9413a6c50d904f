# SPDX-License-Identifier: Apache-2.0
"""
The same job as people write it: an input file -> requests; answers joined to rows -> Parquet. Nothing is submitted.

Each script holds what it needs in memory, checks no key, validates no answer, and starts anew after a crash.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.run_inputs import PROMPT
from benchmarks.usage import measured, peak

SCRIPTS = {"pandas": "plain json and pandas", "polars": "Polars", "by_duckdb": "DuckDB"}


def by_hand(script: str, kind: str, source: str, answers: str, folder: str) -> dict[str, Any]:
    """Carry out one script; *folder* is for what it writes."""
    requests, output = str(Path(folder) / "requests.jsonl"), str(Path(folder) / "by-hand.parquet")
    work = {"pandas": pandas, "polars": polars, "by_duckdb": by_duckdb}[script]
    found: dict[str, Any] = measured(lambda: work(kind, source, requests, answers, output))
    found["memory"] = peak()  # of the whole process, as for a run
    import duckdb

    rows = duckdb.execute(f"SELECT count(*) FROM read_parquet('{output}')").fetchone()
    Path(requests).unlink()
    Path(output).unlink()
    return {**found, "rows": rows[0] if rows else 0}


def pandas(kind: str, source: str, requests: str, answers: str, output: str) -> None:
    """Python's ``json``, one line at a time, into a frame. Parquet by DuckDB: pandas has no writer of its own."""
    import duckdb
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

    frame = pd.read_csv(source) if source.endswith(".csv") else pd.read_json(source, lines=True)
    with open(requests, "w") as out:
        for key, review in zip(frame["id"], frame["review"], strict=True):
            part = {"parts": [{"text": review if kind == "vectors" else PROMPT + review}]}
            request = {"content": part} if kind == "vectors" else {"contents": [part]}
            out.write(json.dumps({"key": key, "request": request}) + "\n")
    found = []
    with open(answers) as lines:
        for line in lines:
            row = json.loads(line)
            response = row["response"]
            if kind == "vectors":
                found.append({"id": row["key"], "embedding": response["embedding"]["values"]})
                continue
            text = response["candidates"][0]["content"]["parts"][0]["text"]
            usage = response["usageMetadata"]
            values = json.loads(text) if kind == "short" else {"text": text}
            tokens = {"prompt_tokens": usage["promptTokenCount"], "output_tokens": usage["candidatesTokenCount"]}
            found.append({"id": row["key"], **values, **tokens})
    joined = frame.merge(pd.DataFrame(found), on="id", how="left")
    duckdb.from_df(joined).write_parquet(output, compression="zstd")


def polars(kind: str, source: str, requests: str, answers: str, output: str) -> None:
    """Polars' own readers and writers."""
    import polars as pl

    frame = pl.read_csv(source) if source.endswith(".csv") else pl.read_ndjson(source)
    text = pl.col("review") if kind == "vectors" else pl.lit(PROMPT) + pl.col("review")
    part = pl.struct(pl.concat_list(pl.struct(text=text)).alias("parts"))
    request = pl.struct(content=part) if kind == "vectors" else pl.struct(pl.concat_list(part).alias("contents"))
    frame.select(key=pl.col("id"), request=request).write_ndjson(requests)
    response = pl.col("response").struct
    if kind == "vectors":
        shape: Any = pl.Struct({"embedding": pl.Struct({"values": pl.List(pl.Float32)})})
        values = [response["embedding"].struct["values"].alias("embedding")]
    else:
        content = pl.Struct({"parts": pl.List(pl.Struct({"text": pl.String}))})
        usage = pl.Struct({"promptTokenCount": pl.Int64, "candidatesTokenCount": pl.Int64})
        shape = pl.Struct({"candidates": pl.List(pl.Struct({"content": content})), "usageMetadata": usage})
        first = response["candidates"].list.first().struct["content"].struct["parts"].list.first().struct["text"]
        counts = response["usageMetadata"].struct
        tokens = [
            counts["promptTokenCount"].alias("prompt_tokens"), counts["candidatesTokenCount"].alias("output_tokens"),
        ]  # fmt: skip
        if kind == "short":
            schema = pl.Struct({"sentiment": pl.String, "topics": pl.List(pl.String)})
            values = [first.str.json_decode(schema).alias("values"), *tokens]
        else:
            values = [first.alias("text"), *tokens]
    answered = pl.read_ndjson(answers, schema={"key": pl.String, "response": shape})
    answered = answered.select(pl.col("key").alias("id"), *values)
    joined = frame.join(answered, on="id", how="left", maintain_order="left")
    if kind == "short":
        joined = joined.unnest("values")
    joined.write_parquet(output)


def by_duckdb(kind: str, source: str, requests: str, answers: str, output: str) -> None:
    """Two statements of DuckDB, with all the memory and the cores there are."""
    import duckdb

    read = f"read_csv('{source}')" if source.endswith(".csv") else f"read_json('{source}')"
    text = "review" if kind == "vectors" else f"'{PROMPT}' || review"
    part = f"{{'parts': [{{'text': {text}}}]}}"
    request = f"{{'content': {part}}}" if kind == "vectors" else f"{{'contents': [{part}]}}"
    if kind == "vectors":
        shape = 'STRUCT(embedding STRUCT("values" FLOAT[]))'
        values = 'a.response.embedding."values" AS embedding'
    else:
        shape = (
            "STRUCT(candidates STRUCT(content STRUCT(parts STRUCT(text VARCHAR)[]))[], "
            "usageMetadata STRUCT(promptTokenCount BIGINT, candidatesTokenCount BIGINT))"
        )
        found = "a.response.candidates[1].content.parts[1].text"
        values = f"{found} AS text"
        if kind == "short":
            values = f'unnest(from_json({found}, \'{{"sentiment":"VARCHAR","topics":["VARCHAR"]}}\'))'
        usage = "a.response.usageMetadata"
        values += f", {usage}.promptTokenCount AS prompt_tokens, {usage}.candidatesTokenCount AS output_tokens"
    lines = f"read_json('{answers}', format='newline_delimited', columns={{key: 'VARCHAR', response: '{shape}'}})"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT id AS key, {request} AS request FROM {read}) TO '{requests}' (FORMAT json)")
        connection.execute(
            f"COPY (SELECT r.* EXCLUDE n, {values} FROM (SELECT *, row_number() OVER () AS n FROM {read}) r "
            f"LEFT JOIN {lines} a ON a.key = r.id ORDER BY n) TO '{output}' (FORMAT parquet, COMPRESSION zstd)"
        )
