"""The page docs/conformance.md: what it is made of, and that what stands in the tree was made of it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pillarbox.core.table import TABLE
from tests.conformance import page
from tests.conformance.__main__ import PAGE, main
from tests.conformance.judgements import JUDGEMENTS
from tests.conformance.servers import NAMES, Result, Running

PAIRS = [
    {"command": entry.command, "code": entry.code, "classical": entry.classical, "verdict": "not provoked"}
    for entry in TABLE
]


def rule(name: str, note: str, *said: str, level: str = "MUST", verdict: str = "deviates") -> dict[str, Any]:
    return {
        "name": name,
        "rule": "Something <is> so.",
        "section": "RFC 5321 sections 4.1.2 and 4.2",
        "level": level,
        "verdict": verdict,
        "note": note,
        "transcript": [["C", "NOOP"], *(["S", text] for text in said)],
    }


def result(name: str, *rules: dict[str, Any]) -> Result:
    counts = {"rules": dict.fromkeys(("conforms", "deviates", "not offered", "not provoked"), 1)}
    report = {"rules": list(rules), "pairs": PAIRS, "counts": counts, "helo": "client.test", "started": 0.0}
    return Result(Running(name, "1.0", "as it comes", 25, "bob@example.test"), 1, report)


def row(results: list[Result], name: str) -> str:
    found = [line for line in page.render(results, "2026-11-24").splitlines() if line.startswith(f"| `{name}`")]
    assert len(found) == 1
    return found[0]


def test_a_claim_is_shown_with_its_judgement() -> None:
    claims = [result("Exim", rule("vrfy", "answered 500", "500 <what> | `so`")), result("Postfix")]
    shown = row(claims, "vrfy")
    assert "Something &lt;is&gt; so. | 4.1.2 and 4.2 | Exim: 500 &lt;what&gt; \\| 'so' | " in shown
    assert JUDGEMENTS["vrfy"].text in shown and "Postfix" not in shown


@pytest.mark.parametrize(
    ("note", "said", "answer"),
    [
        ("answered 250", ("250-one", "250 two"), "answered 250"),
        ("answered 221", ("250 before", "221 2.0.0 bye"), "221 2.0.0 bye"),
        ("answered 503, in rset", ("503 no",), "503 no"),
        ("answered 250, before its end was sent", ("250 ok", "221 bye"), "answered 250, before its end was sent"),
        ("more than one reply: 250, 221", ("250 ok", "221 bye"), "more than one reply: 250, 221"),
        ("3 times: a, b, c", ("500 first", "500 last"), "500 last (3 times)"),
        ("once: a", ("5" * 200,), f"{'5' * 90}... (once)"),
        ("the connection was closed", (), "the connection was closed"),
    ],
)
def test_the_answer_of_a_server(note: str, said: tuple[str, ...], answer: str) -> None:
    assert f" | Exim: {answer} | " in row([result("Exim", rule("vrfy", note, *said))], "vrfy")


def test_what_nobody_judged_is_told_and_so_is_what_nobody_needs() -> None:
    results = [result("Exim", rule("vrfy", "answered 500"), rule("new", "x"), rule("old", "x", verdict="conforms"))]
    assert page.unjudged(results) == ["Exim: new"]
    assert set(page.idle(results)) == set(JUDGEMENTS) - {"vrfy"}
    assert "not judged yet" in row(results, "new")


def test_levels_have_tables_of_their_own() -> None:
    text = page.render([result("Exim", rule("help", "x", level="SHOULD"), rule("vrfy", "x"))], "2026-11-24")
    places = [text.index(part) for part in ("from a MUST\n", "| `vrfy`", "from a SHOULD\n\n|", "| `help`")]
    assert places == sorted(places) and "## Deviations in grammar" not in text


def test_remarks_are_about_servers_of_the_matrix() -> None:
    for name, judgement in JUDGEMENTS.items():
        assert set(judgement.remarks) <= set(NAMES), name
        assert judgement.text.endswith((".", ".'")), name
        assert all(remark.endswith(".") for remark in judgement.remarks.values()), name


def test_the_page_in_the_tree_has_the_claims_that_are_judged() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z0-9-]+)`: ", text, re.MULTILINE)) == set(JUDGEMENTS)
    for judgement in JUDGEMENTS.values():
        assert judgement.text in text
        assert all(remark in text for remark in judgement.remarks.values())
    heads = [line for line in text.splitlines() if line.startswith("| command |")]
    assert heads == [f"| command | {' | '.join(NAMES)} | of |"]
    (sums,) = (line for line in text.splitlines() if line.startswith("| **all** |"))
    assert sums.endswith("| **112** |")


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--write", "--servers", "Exim"]) == 2
    assert "all servers" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--servers", "Sendmail"])
    assert ended.value.code == 2 and "none of" in capsys.readouterr().err
