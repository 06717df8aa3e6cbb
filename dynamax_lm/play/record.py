"""One answer as JSON, for other programs."""

from __future__ import annotations

from typing import Any

from dynamax_lm.answers import ExitGrid
from dynamax_lm.play.session import Played


def to_json(played: Played, fingerprint: str, grid: ExitGrid | None = None) -> dict[str, Any]:
    """The answer, its tokens and its totals as JSON values.

    Args:
        played: the answer.
        fingerprint: of the settings, as in results files.
        grid: what every exit predicts for each token, if it was asked for.
    """
    answer = played.answer
    rows = zip(answer.trace.rows(), answer.pieces, answer.full_depth_pieces, strict=True)
    tokens = [
        {
            "token": row.token,
            "text": piece,
            "layers_used": row.layers_used,
            "confidence": row.confidence,
            "full_depth": row.full_depth,
            "full_depth_text": piece if full is None and row.full_depth is not None else full,
        }
        for row, piece, full in rows
    ]
    record: dict[str, Any] = {
        "prompt": played.prompt,
        "text": answer.text,
        "tokens": tokens,
        "text_tokens": len(answer),
        "depths": list(answer.depths),
        "full_depth_answer": answer.reference,
        "agreement": answer.agreement,
        "flops_saved": answer.flops.flops_saved,
        "flops_saved_total": answer.flops.flops_saved_total,
        "seconds": played.seconds,
        "full_depth_seconds": played.full_depth_seconds,
        "fingerprint": fingerprint,
    }
    if answer.trace.rounds is not None:
        record["drafts"] = [one._asdict() for one in answer.trace.rounds]
    if grid is not None:
        record["exits"] = {
            "layers": grid.layers.tolist(),
            "measure": grid.measure,
            "tokens": grid.predicted.tolist(),
            "texts": grid.predicted_pieces.tolist(),
            "confidence": [[round(float(x), 6) for x in row] for row in grid.confidence],
        }
    return record
