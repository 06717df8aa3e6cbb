"""Makes a decoder's cheap look ready for some exits: factors of the unembedding, for a rank."""

from __future__ import annotations

from collections.abc import Callable

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.engine.calibration import second_moment
from dynamax_lm.heads import ExitHeads
from dynamax_lm.settings import ExitSettings


class LookFactors:
    """Factors for the inputs that the exits have; made again where exits or translators change.

    Args:
        stack: the decoder.
    """

    def __init__(self, stack: Decoder) -> None:
        self._stack = stack
        self._made_for: tuple[tuple[int, ...], str | None] | None = None

    def prepare(
        self, settings: ExitSettings, heads: ExitHeads | None, rows: Callable[[], list[list[int]]]
    ) -> None:
        """Factor the unembedding for the exits of ``settings`` and the translators of ``heads``.

        Args:
            settings: with exits.
            heads: trained for them, if any.
            rows: gives token ids of a text, from which the inputs are taken; called if needed.

        Raises:
            SettingError: the vocabulary projection cannot be looked at in parts.
        """
        look = settings.look
        if look.exact_at(0) and not look.shortlist:
            return
        try:
            cheap = self._stack.cheap_projection
        except ValueError as error:
            raise SettingError(f"look={look.name}: {error}; use look=full") from None
        if not look.rank:
            return
        key = settings.exit_layers, None if heads is None else heads.config.identity
        if self._made_for != key:
            cheap.calibrate(second_moment(self._stack, rows(), settings.exit_layers, heads))
            self._made_for = key
        cheap.factors(look.rank)
