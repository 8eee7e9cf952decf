"""What a model is given before its first step: plain text, its chat template, or a file's own.

| style | a prompt |
| --- | --- |
| plain | system message, instruction, worked examples, the problem, as text |
| chat | the checkpoint's chat template over these, up to the opening of the assistant's turn |
| template | a file of one's own, in which `{problem}` stands for the problem |

What users write is encoded without control tokens in every style. Templates are run by Jinja's
sandbox, as transformers does.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from agent.config.settings import PromptSettings
from agent.engine.tokenizer import Tokenizer
from agent.networks.pictures import picture_tokens
from agent.tasks.killable import Killable
from agent.tasks.task import Demonstration, Task
from search.errors import CheckpointError, TaskError, UsageError

PROBLEM = "{problem}"
MAX_TEMPLATE_BYTES = 1_000_000
TEMPLATE_S = 5.0
TEMPLATE_BYTES = 2**30

Part = tuple[str, bool]
"""A text, and whether it is the template's own and not a user's."""


class Prompts:
    """Prompts of one task for one policy, by the settings."""

    def __init__(self, task: Task, tokenizer: Tokenizer, settings: PromptSettings) -> None:
        """Raises CheckpointError or UsageError for a template that is not there or fails."""
        self.task = task
        self.tokenizer = tokenizer
        self.settings = settings
        given = settings.instruction
        self.instruction = task.instruction if given is None else given
        self.examples = task.examples()
        self._template = None if settings.style == "plain" else self._read_template()

    @cached_property
    def digest(self) -> str:
        """Of all that is put around a problem; empty for the plain style as it comes."""
        if self.settings == PromptSettings():
            return ""
        raw = repr((self._parts("\0"), self.end_id))
        return hashlib.sha256(raw.encode()).hexdigest()[:16]

    def text(self, problem: str) -> str:
        """The prompt as text, control tokens spelled out."""
        return "".join(text for text, _ in self._parts(problem))

    def tokens(self, problem: str) -> list[int]:
        """Token ids of the prompt, pictures before the words. Raises TaskError when the vocabulary
        cannot spell it, and for pictures that the policy does not read."""
        pictures = self._pictures(problem)
        if self._template is None:
            found = self.tokenizer.encode(self.text(problem))
            start = len(self.tokenizer.opening)
            return [*found[:start], *pictures, *found[start:]]
        if pictures:
            raise TaskError(
                f"prompt.style is {self.settings.style!r}, and problems with pictures are put in "
                "plain prompts alone",
                "set prompt.style to plain",
            )
        return self.tokenizer.encode_template(self._parts(problem))

    def _pictures(self, problem: str) -> list[int]:
        digests = self.task.pictures(problem)
        shape = self.tokenizer.vision if digests else None
        if digests and shape is None:
            raise TaskError(
                "the problem comes with a picture, and this policy reads text alone",
                "use a policy that reads pictures: a transformers folder of model_type llava",
            )
        return [
            token
            for digest in digests
            if shape is not None
            for token in picture_tokens(digest, shape.num_tokens, shape.image_token)
        ]

    @cached_property
    def end_id(self) -> int:
        """The token that ends an answer: in chat style the one behind the assistant's turn."""
        if self.settings.style == "chat":
            mark = "\ue000answer\ue001"
            turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": mark}]
            behind = self._render(turns, opens=False).partition(mark)[2]
            for end in self.tokenizer.end_ids:
                token = self.tokenizer.fast.id_to_token(end)
                if token and behind.startswith(token):
                    return end
        return self.tokenizer.end_ids[0]

    def _parts(self, problem: str) -> list[Part]:
        if self._template is not None:
            return [
                (self._content(problem) if part == (PROBLEM, False) else part[0], part[1])
                for part in self._template
            ]
        settings, question = self.settings, self.task.question
        shown = "".join(question(e.problem.text) + _worked(e) + "\n\n" for e in self.examples)
        opening = "".join(t + "\n\n" for t in (settings.system, self.instruction) if t)
        return [(opening + shown + question(problem), False)]

    def _content(self, problem: str) -> str:
        """A user's turn; a template of one's own says by itself what to do."""
        if self.settings.style == "template" or not self.instruction:
            return problem
        return f"{self.instruction}\n\n{problem}"

    # --- templates ---

    def _read_template(self) -> tuple[Part, ...]:
        """The template in parts, the problem's place among them."""
        if self.settings.style == "template":
            return self._own_template()
        turns: list[dict[str, str]] = []
        if self.settings.system:
            turns.append({"role": "system", "content": self.settings.system})
        for example in self.examples:
            turns.append({"role": "user", "content": self._content(example.problem.text)})
            turns.append({"role": "assistant", "content": _worked(example)})
        contents = [turn["content"] for turn in turns]
        marks = [f"\ue000{i}\ue001" for i in range(len(turns) + 1)]
        marked = [t | {"content": m} for t, m in zip(turns, marks, strict=False)]
        text = self._render([*marked, {"role": "user", "content": marks[-1]}], opens=True)
        shown = {**dict(zip(marks, contents, strict=False)), marks[-1]: PROBLEM}
        lost = [content for mark, content in shown.items() if mark not in text]
        if lost:
            raise UsageError(
                f"the chat template of {self.tokenizer.path} leaves a message out: "
                f"{lost[0][:60]!r}",
                "leave prompt.system or prompt.examples out, or use prompt.style template",
            )
        pieces = re.split("(\ue000\\d+\ue001)", text)
        return tuple((shown.get(piece, piece), piece not in shown) for piece in pieces if piece)

    def _own_template(self) -> tuple[Part, ...]:
        name = self.settings.template
        try:
            path = Path(name).expanduser()
            is_there = bool(name) and path.is_file()
        except (OSError, RuntimeError, ValueError):  # too long, nobody's home
            is_there = False
        if not is_there:
            raise UsageError(
                f"setting 'prompt.template' is {name!r}, which is no file",
                f"name a file that holds {PROBLEM}",
            )
        try:
            if path.stat().st_size > MAX_TEMPLATE_BYTES:
                raise UsageError(f"{path} is larger than a megabyte", "write a shorter template")
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8: {error}", "save it as UTF-8") from error
        before, found, after = text.partition(PROBLEM)
        if not found or PROBLEM in after:
            raise UsageError(
                f"{path} holds {PROBLEM} {text.count(PROBLEM)} times", f"write {PROBLEM} once"
            )
        return ((before, True), (PROBLEM, False), (after, True))

    def _render(self, turns: Sequence[dict[str, str]], opens: bool) -> str:
        """Runs the template in a process of its own, bounded in time and memory."""
        source = _GENERATION.sub("", _chat_template(self.tokenizer.path))
        values = {"messages": list(turns), "add_generation_prompt": opens}
        child = Killable(rendered, ("", {}), TEMPLATE_S, TEMPLATE_BYTES)
        try:
            found = child.ask((source, values | _special_tokens(self.tokenizer.path)))
        finally:
            child.close()
        text, trouble = found or ("", f"it took over {TEMPLATE_S:g} s, or too much memory")
        if trouble.startswith(UNREADABLE):
            raise CheckpointError(
                f"the chat template of {self.tokenizer.path} {trouble}",
                "save the tokenizer again, or use prompt.style plain",
            )
        if trouble:
            raise UsageError(
                f"the chat template of {self.tokenizer.path} refuses: {trouble}",
                "leave prompt.system or prompt.examples out, or use prompt.style template",
            )
        return str(text)


UNREADABLE = "cannot be read"
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Marks for training that transformers passes over, too."""


def rendered(question: tuple[str, dict[str, Any]]) -> tuple[str, str]:
    """The text of a template, or why there is none."""
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    source, values = question
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"raise_exception": refuse}
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    try:
        text = environment.from_string(source).render(**values)
    except TemplateSyntaxError as error:
        return "", f"{UNREADABLE}: {error}"
    except Exception as error:  # a template may raise anything
        return "", f"{type(error).__name__}: {error}"
    if len(text) > MAX_TEMPLATE_BYTES:
        return "", f"it writes {len(text):,} characters"
    return text, ""


def _worked(example: Demonstration) -> str:
    return "".join(example.steps).strip()


def _config(path: Path) -> dict[str, Any]:
    file = path / "tokenizer_config.json"
    try:
        value = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}", "save it again") from error
    return value if isinstance(value, dict) else {}


def _special_tokens(path: Path) -> dict[str, str]:
    """bos_token and its like, as templates name them."""
    found: dict[str, str] = {}
    for name, value in _config(path).items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _chat_template(path: Path) -> str:
    """The checkpoint's template: chat_template.jinja, else of tokenizer_config.json."""
    file = path / "chat_template.jinja"
    if file.is_file():
        if file.stat().st_size > MAX_TEMPLATE_BYTES:
            raise CheckpointError(f"{file} is larger than a megabyte", "save the tokenizer again")
        return file.read_text(encoding="utf-8")
    found = _config(path).get("chat_template")
    if isinstance(found, list):  # several by name
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    if not isinstance(found, str):
        raise UsageError(
            f"setting 'prompt.style' is 'chat', but {path} has no chat template",
            "set prompt.style to plain or template, or use an instruct model's checkpoint",
        )
    return found


def prompts_at(path: Path, task: Task, settings: PromptSettings) -> Prompts:
    """Prompts in the tokens of a checkpoint's directory."""
    return Prompts(task, Tokenizer(path), settings)


def check_prompts(task: Task, tokenizer: Tokenizer, settings: PromptSettings) -> Prompts:
    """Prompts that are known to work: one is made, and its end looked for.

    Raises UsageError or CheckpointError.
    """
    prompts = Prompts(task, tokenizer, settings)
    try:
        prompts.tokens("1")
    except TaskError as error:
        raise UsageError(error.message, error.fix) from error
    _ = prompts.end_id
    return prompts
