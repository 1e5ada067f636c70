"""A file of shaping rules: read, refused with what is wrong and where, checked, and followed at a reload."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pillarbox.app.check import Level
from pillarbox.app.cli import main
from pillarbox.app.config_load import ConfigError, load
from pillarbox.app.config_shaping import built_in, load_rules, parse_rules
from pillarbox.app.data import Data
from pillarbox.app.house import House
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.limits import Limit
from pillarbox.engine.mail import Deferred, Report
from pillarbox.engine.shaping import Shaper
from pillarbox.engine.shaping_rules import Action, Fault, Rule
from tests.unit.test_check import findings
from tests.unit.test_daemon import at_work
from tests.unit.test_house import config
from tests.unit.test_shaping import JOB

FILE = "rules/shaping.toml"
OURS = """\
# ours
[[rule]]
name = "partner"
lane = ["mx:*.partner.example"]
code = ["421", "45z"]
status = ["4.7.*"]
text = 'slow (?:down|it)'
do = "rate"
rate = "30/m"
for = "1h"
successes = 7

[[rule]]
name = "patient"
fault = ["timeout", "lost"]
do = "pause"
in_a_row = 20
for = "1m"
at_most = "5m"
"""


def test_every_key_is_read() -> None:
    partner, patient = parse_rules(OURS, FILE)
    assert partner.text is not None and partner.text.pattern == "slow (?:down|it)"
    assert replace(partner, text=None, longest=900.0) == Rule(
        "partner",
        Action.RATE,
        codes=("421", "45z"),
        statuses=("4.7.*",),
        lanes=("mx:*.partner.example",),
        seconds=3600.0,
        successes=7,
        rate=Limit(30, 60),
    )
    assert patient == Rule(
        "patient",
        Action.PAUSE,
        faults=(Fault.TIMEOUT, Fault.LOST),
        seconds=60.0,
        in_a_row=20,
        longest=300.0,
    )


def test_ours_come_before_the_built_in_ones(tmp_path: Path) -> None:
    file = tmp_path / "shaping.toml"
    file.write_text(OURS)
    rules = load_rules(file).rules
    assert [rule.name for rule in rules[:2]] == ["partner", "patient"]
    assert [rule.name for rule in rules[2:]] == [rule.name for rule in built_in()]
    assert len(load_rules(None).rules) == len(built_in())


def test_a_built_in_rule_may_have_its_name_taken(tmp_path: Path) -> None:
    file = tmp_path / "shaping.toml"
    file.write_text('[[rule]]\nname = "greylisting"\ntext = "grey"\ndo = "none"\n')
    assert [rule.name for rule in load_rules(file).rules].count("greylisting") == 2


def test_the_built_in_rules_are_of_a_size_to_be_read() -> None:
    assert 25 <= len(built_in()) <= 40


HEAD = '[[rule]]\nname = "first"\ncode = ["421"]\ndo = "none"\n[[rule]]\n'
BAD = [
    ('name = "x"\ncode = ["421"]', ":5: rule x: do is missing; allowed: "),
    ('code = ["421"]\ndo = "none"', ":5: rule[1]: name is missing"),
    ('name = "a b"\ncode = ["421"]\ndo = "none"', ':6: rule[1].name = "a b": not a name; allowed: 1 to 60 letters'),
    ('name = "x"\ncode = ["250"]\ndo = "none"', ':7: rule x.code[0] = "250": neither a code nor a class'),
    (
        'name = "x"\ncode = "421"\ndo = "none"',
        ':7: rule x.code = "421": not a list; allowed: a list, each a reply code',
    ),
    ('name = "x"\ncode = [421]\ndo = "none"', ":7: rule x.code[0] = 421: not a string in quotes"),
    ('name = "x"\nstatus = ["4.7"]\ndo = "none"', ':7: rule x.status[0] = "4.7": neither an enhanced status code'),
    ('name = "x"\ntext = "("\ndo = "none"', ':7: rule x.text = "(": not a regular expression: missing )'),
    ('name = "x"\ntext = "(a+)+"\ndo = "none"', ':7: rule x.text = "(a+)+": repeats a group that holds a repeat'),
    ('name = "x"\ntext = ""\ndo = "none"', ':7: rule x.text = "": empty'),
    ('name = "x"\nfault = ["tsl"]\ndo = "none"', ':7: rule x.fault[0] = "tsl": no such value, did you mean "tls"?'),
    ('name = "x"\ncode = ["421"]\ndo = "puase"', ':8: rule x.do = "puase": no such value, did you mean "pause"?'),
    ('name = "x"\ncodes = ["421"]\ndo = "none"', ":7: rule x.codes: unknown key, did you mean"),
    ('name = "x"\ncode = ["421"]\ndo = "rate"\nslower = 1.5', ":9: rule x.slower = 1.5: not a part of what it was"),
    ('name = "x"\ncode = ["421"]\ndo = "rate"\nrate = "30"', ':9: rule x.rate = "30": the period is missing'),
    ('name = "x"\ncode = ["421"]\ndo = "none"\nfor = "soon"', ':9: rule x.for = "soon": not a duration'),
    ('name = "x"\ncode = ["421"]\ndo = "none"\nsuccesses = 0', ":9: rule x.successes = 0: too small"),
    ('name = "first"\ncode = ["421"]\ndo = "none"', ':6: rule first.name = "first": a rule above has that name'),
    ('name = "x"\ndo = "none"', ":6: rule x.name: matches everything; say what with code, status, text or fault"),
    (
        'name = "x"\nfault = ["lost"]\ncode = ["421"]\ndo = "none"',
        ':8: rule x.code = ["421"]: a fault has none; leave out code, or leave out fault',
    ),
    (
        'name = "x"\ncode = ["421"]\ndo = "none"\nslower = 0.5',
        ':9: rule x.slower = 0.5: is for do = "rate" only; leave the key out',
    ),
    (
        'name = "x"\nfault = ["lost"]\ndo = "none"\nin_a_row = 3',
        ':9: rule x.in_a_row = 3: is for do = "pause" only; leave the key out',
    ),
    (
        'name = "x"\ncode = ["421"]\ndo = "rate"\nslower = 0.5\nrate = "3/m"',
        ":9: rule x.slower = 0.5: with a fixed rate there is no part; leave one of them out",
    ),
    ('name = "x"\ncode = ["421"]\ndo = "pause"', ':8: rule x.do = "pause": replies never stop a lane, nor does DNS'),
    ('name = "x"\nfault = ["dns"]\ndo = "pause"', ':8: rule x.do = "pause": replies never stop a lane, nor does DNS'),
    ("name = ", ":6: not TOML: "),
]


@pytest.mark.parametrize(("rule", "said"), BAD, ids=[said[:50] for _, said in BAD])
def test_a_bad_rule_is_explained(rule: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules(HEAD + rule, FILE)
    assert str(caught.value).startswith(f"{FILE}{said}")


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules('[[rule]]\nname = "a"\ndo = "x"\n[[rule]]\nname = "b"\ncode = ["1"]\ndo = "none"\n', FILE)
    assert [(problem.line, problem.key) for problem in caught.value.problems] == [
        (3, "rule a.do"),
        (6, "rule b.code[0]"),
    ]


@pytest.mark.parametrize("key", ["rules = []", "[rule]\nname = 'x'"])
def test_no_rules_at_all(key: str) -> None:
    with pytest.raises(ConfigError, match="rule"):
        parse_rules(key, FILE)


def test_the_file_starts_at_the_folder_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "pillarbox.toml"
    file.write_text('shaping = "rules.toml"')
    assert load(file).shaping == tmp_path / "rules.toml"
    with pytest.raises(ConfigError, match=r"rules\.toml: can't be read: No such file.*correct `shaping`"):
        load_rules(load(file).shaping)
    (tmp_path / "rules.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_rules(load(file).shaping)


# --- who reads it


def test_check_tells_of_it(tmp_path: Path) -> None:
    rules = tmp_path / "shaping.toml"
    line = f'shaping = "{rules.name}"'
    rules.write_text(OURS)
    (found,) = [each for each in findings(tmp_path, line) if each.what.startswith("shaping")]
    assert found.level is Level.OK and f"there are {len(built_in()) + 2} rules" in found.what
    rules.write_text('[[rule]]\nname = "a"\ncode = ["1"]\ndo = "none"\n')
    (found,) = [each for each in findings(tmp_path, line) if each.what.startswith("shaping")]
    assert found.level is Level.FAIL and found.mend
    assert f'{rules}:3: rule a.code[0] = "1": neither' in found.what
    assert not [each for each in findings(tmp_path, "") if each.what.startswith("shaping")]


def slowed(shaper: Shaper) -> list[str]:
    """By which rule a reply slows the lane down."""
    outcome = Deferred("450 Later", "mx", EnhancedCode(4, 0, 0), remote=True)
    shaper.most(20)
    return [each.cause for each in shaper.heard(Report((outcome,)), JOB, 1000.0)]


def test_it_follows_a_reload_and_bad_rules_change_nothing(tmp_path: Path) -> None:
    rules = tmp_path / "shaping.toml"
    rule = '[[rule]]\nname = "NAME"\ncode = ["450"]\ndo = "lower_connections"\n'
    rules.write_text(rule.replace("NAME", "mine"))
    given = config(tmp_path, shaping=rules)

    async def work(data: Data) -> None:
        house = House(data)
        lanes = [house.out._shaper(f"mx:{number}.example") for number in range(4)]
        try:
            assert slowed(lanes[0]) == ["mine: 450 Later"]
            rules.write_text(rule.replace("NAME", "other"))
            await house.reload(given, {})
            assert slowed(lanes[1]) == ["other: 450 Later"]
            rules.write_text("[[rule]]\n")
            with pytest.raises(ConfigError, match="name is missing"):
                await house.reload(given, {})
            assert slowed(lanes[2]) == ["other: 450 Later"]
            await house.reload(config(tmp_path), {})
            assert slowed(lanes[3]) == []
        finally:
            await house.close()

    at_work(tmp_path, work, given=given)


def test_a_server_does_not_start_with_bad_rules(tmp_path: Path) -> None:
    rules = tmp_path / "shaping.toml"
    rules.write_text("[[rule]]\n")

    async def work(data: Data) -> None:
        with pytest.raises(ConfigError, match="name is missing"):
            House(data)

    at_work(tmp_path, work, given=config(tmp_path, shaping=rules))


def test_the_rules_are_packaged(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder  # what pip builds with

    root = Path(__file__).parents[2]
    (wheel,) = WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as found:
        assert "pillarbox/app/shaping.toml" in found.namelist()


# --- the verb


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["shaping", *argv]) == 0
    return capsys.readouterr().out


def test_which_rule_a_reply_meets(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "421 4.7.0 Too many connections")
    assert found.startswith(
        "too-many-connections: half the connections, for 10m; more again after each 10 deliveries\n"
    )
    assert "it matches 4yz 5yz, /too many" in found
    assert said(capsys, "450", "4.7.1", "Greylisted").startswith("greylisting: nothing is slowed down\n")
    assert said(capsys, "timeout").startswith("breaker: behind 5 in a row, no attempts for 30s, doubling to 15m\n")
    assert said(capsys, "250 Ok") == "no rule: nothing is slowed down\n"
    assert not list(here.iterdir())


def test_which_rule_it_meets_in_a_lane(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pillarbox.toml").write_text('shaping = "shaping.toml"')
    (here / "shaping.toml").write_text(OURS)
    text = "450 4.7.1 slow down"
    assert said(capsys, text).startswith("rate-exceeded: messages at 50% of the rate it had")
    assert said(capsys, text, "--lane", "mx:a.partner.example").startswith("partner: messages at 30 a minute, for 1h;")


def test_all_rules(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys).splitlines()
    assert [line.split()[0] for line in lines] == [rule.name for rule in built_in()]


def test_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = json.loads(said(capsys, "421 Goodbye", "--json"))
    assert found == {
        "rule": "service-closing",
        "code": ["421"],
        "status": [],
        "text": None,
        "fault": [],
        "lane": [],
        "do": "lower_connections",
        "effect": "half the connections, for 5m; more again after each 10 deliveries",
    }


def test_what_is_no_reply(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shaping", "later"]) == 2
    assert "shaping later: neither a reply, with its code in front, nor one of connection, refused" in (
        capsys.readouterr().err
    )


def test_bad_rules_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pillarbox.toml").write_text('shaping = "none.toml"')
    assert main(["shaping"]) == 1
    assert "none.toml: can't be read" in capsys.readouterr().err
