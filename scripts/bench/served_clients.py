"""Programs of others that speak OpenAI's protocol, each to its end."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripts.bench.report import Row, counted, missing, share
from scripts.bench.served import Served, questions, serving

HERE = Path(__file__).parent / "clients"


def clients(quick: bool, python: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        yield from _python_client(server)
        yield from _node_client(server, Path(name))
        for tool, work in (("lm_eval", _lm_eval), ("inspect_ai", _inspect)):
            if not python:
                yield missing(f"client_{tool}", "no --python with it")
            else:
                yield work(server, Path(name), python, 8 if quick else 40)
        yield _schemathesis(server, Path(name), 5 if quick else 50)


def _python_client(server: Served) -> Iterator[Row]:
    import openai

    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=2)
    messages: Any = [{"role": "user", "content": "7+2*3-4+5*6-1"}]

    def raises(kind: type[Exception], **body: Any) -> bool:
        try:
            client.chat.completions.create(**({"model": "latest", "messages": messages} | body))
        except kind:
            return True
        return False

    def streamed() -> bool:
        parts: Any = client.chat.completions.create(
            model="latest:mcts", messages=messages, stream=True
        )
        return "".join(p.choices[0].delta.content or "" for p in parts).endswith("38")

    def chat() -> bool:
        found = client.chat.completions.create(model="latest:mcts", messages=messages)
        return (found.choices[0].message.content or "").endswith("38")

    checks: list[Callable[[], bool]] = [
        chat,
        streamed,
        lambda: any(m.id == "latest:mcts" for m in client.models.list()),
        lambda: (
            client.completions.create(model="latest", prompt="7+2*3\n", max_tokens=4, temperature=0)
            .choices[0]
            .text.startswith("7+6")
        ),
        lambda: raises(openai.BadRequestError, messages=[]),
        lambda: raises(openai.NotFoundError, model="none"),
        lambda: raises(openai.BadRequestError, tools=[{"type": "function"}]),
    ]
    passed = sum(check() for check in checks)
    yield share("client_openai_python", passed, len(checks), f"openai {openai.__version__}")


def _node_client(server: Served, folder: Path) -> Iterator[Row]:
    if shutil.which("npm") is None:
        yield missing("client_openai_node", "no npm")
        return
    shutil.copy(HERE / "client.mjs", folder)
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        ["node", "client.mjs", server.url], cwd=folder, capture_output=True, text=True, timeout=120
    )
    verdicts = json.loads(done.stdout) if done.stdout else {"ran": done.stderr[-200:]}
    wrong = {k: v for k, v in verdicts.items() if v is not True}
    version = json.loads((folder / "node_modules/openai/package.json").read_text())["version"]
    yield share(
        "client_openai_node",
        len(verdicts) - len(wrong),
        len(verdicts),
        f"openai {version} {wrong or ''}",
        wrong=wrong,
    )


TASK = """task: ratchet_expressions
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 256}}
filter_list:
  - name: last
    filter:
      - {{function: regex, regex_pattern: "(-?[0-9]+)\\\\s*$"}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


def _lm_eval(server: Served, folder: Path, python: str, num: int) -> Row:
    rows = [{"question": q, "answer": a} for q, a in questions(num, 5)]
    data = folder / "test.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "ratchet_expressions.yaml").write_text(TASK.format(file=data))
    done = subprocess.run(
        [
            *(python, "-m", "lm_eval", "--model", "local-chat-completions", "--tasks"),
            *("ratchet_expressions", "--include_path", str(folder), "--apply_chat_template"),
            "--model_args",
            f"model=latest:mcts,base_url={server.url}/chat/completions,num_concurrent=8,"
            "max_retries=1,tokenized_requests=False",
            *("--output_path", str(folder / "lm")),
        ],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"},
    )
    found = list((folder / "lm").rglob("results*.json"))
    if done.returncode or not found:
        return missing("client_lm_eval", (done.stderr or done.stdout)[-300:])
    results = json.loads(found[0].read_text())["results"]["ratchet_expressions"]
    return share(
        "client_lm_eval", round(results["exact_match,last"] * num), num, "local-chat-completions"
    )


INSPECT = """
import json, sys
from inspect_ai import Task
from inspect_ai import eval as evaluated
from inspect_ai.dataset import Sample
from inspect_ai.scorer import match
from inspect_ai.solver import generate
rows = [json.loads(x) for x in open(sys.argv[1])]
task = Task(dataset=[Sample(input=r["question"], target=r["answer"]) for r in rows],
            solver=generate(), scorer=match(location="end"))
(log,) = evaluated(
    task, model="openai-api/ratchet/latest:mcts", display="none", log_dir=sys.argv[2]
)
print(json.dumps({"status": log.status,
                  "accuracy": log.results.scores[0].metrics["accuracy"].value}))
"""


def _inspect(server: Served, folder: Path, python: str, num: int) -> Row:
    rows = [{"question": q, "answer": a} for q, a in questions(num, 5)]
    data = folder / "inspect.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    script = folder / "with_inspect.py"
    script.write_text(INSPECT)
    done = subprocess.run(
        [python, str(script), str(data), str(folder / "inspect-log")],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"RATCHET_API_KEY": "none", "RATCHET_BASE_URL": server.url},
    )
    if done.returncode:
        return missing("client_inspect_ai", done.stderr[-300:])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return share(
        "client_inspect_ai", round(found["accuracy"] * num), num, f"status {found['status']}"
    )


def _schemathesis(server: Served, folder: Path, examples: int) -> Row:
    if shutil.which("schemathesis") is None:
        return missing("schemathesis_5xx", "not installed: pip install schemathesis")
    done = subprocess.run(
        [
            *("schemathesis", "run", f"{server.base}/openapi.json", "--url", server.base),
            *("--checks", "not_a_server_error", "--max-examples", str(examples)),
            *("--phases", "examples,coverage,fuzzing", "--seed", "1", "--no-color"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    lines = [x for x in done.stdout.splitlines() if "generated" in x or "Test cases" in x]
    errors = done.stdout.count("Server error")
    return counted("schemathesis_5xx", errors, "cases", examples, "; ".join(lines)[-120:])
