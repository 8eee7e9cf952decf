"""Pictures among the words: every place of every picture is a token of its own.

In a stored text a picture is so many equal placeholders. A network that reads pictures gives each
picture it is shown a number, and each place of it a token id behind its vocabulary. So two pictures
never share what is kept of tokens, and everything that passes tokens on passes pictures on. The ids
hold within one network of one process; nothing stores them.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from search.errors import TaskError

Source = Callable[[str], Tensor]
"""The pixels [C, H, W] of a digest, as the network wants them. Raises TaskError."""


def _nothing(digest: str) -> Tensor:
    raise TaskError(
        f"picture {digest[:12]} is not at hand: this network was given no folder of pictures",
        "set hosting.images to the folder that holds it",
    )


class Pictures:
    """The numbers of the pictures that a network was shown, and where their pixels are."""

    def __init__(self, vocab_size: int, num_tokens: int, image_token: int) -> None:
        """`num_tokens` places has a picture, each an `image_token` in a stored text."""
        self.vocab_size, self.num_tokens, self.image_token = vocab_size, num_tokens, image_token
        self.source: Source = _nothing
        self._number: dict[str, int] = {}
        self._digests: list[str] = []

    def placed(self, tokens: Sequence[int], digests: Sequence[str]) -> tuple[int, ...]:
        """Tokens with the ids of these pictures in the places of their placeholders. Raises
        TaskError where these are not so many."""
        places = [i for i, token in enumerate(tokens) if token == self.image_token]
        if len(places) != self.num_tokens * len(digests):
            raise TaskError(
                f"the prompt has {len(places)} places for pictures, and {len(digests)} pictures of "
                f"{self.num_tokens} places each were given",
                "give as many pictures as the prompt names",
            )
        found = list(tokens)
        for k, digest in enumerate(digests):
            first = self._first_id(digest)
            for j, i in enumerate(places[k * self.num_tokens : (k + 1) * self.num_tokens]):
                found[i] = first + j
        return tuple(found)

    def _first_id(self, digest: str) -> int:
        number = self._number.setdefault(digest, len(self._digests))
        if number == len(self._digests):
            self._digests.append(digest)
        return self.vocab_size + number * self.num_tokens

    def of(self, token: int) -> tuple[str, int]:
        """The picture of an id behind the vocabulary, and which of its places."""
        number, place = divmod(token - self.vocab_size, self.num_tokens)
        return self._digests[number], place

    def pixels(self, digest: str) -> Tensor:
        """[C, H, W]. Raises TaskError where the picture is not there or cannot be read."""
        return self.source(digest)
