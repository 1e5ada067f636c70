"""`pillarbox shaping`: the rules in their order, or which of them a reply meets, and what it does.

Reads the configuration and the rules; needs no server, and changes nothing.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from pillarbox.app.cli.options import Group, add_verb
from pillarbox.app.cli.output import as_json, table, visible
from pillarbox.app.control import Refused

if TYPE_CHECKING:
    from pillarbox.engine.shaping_rules import Heard, Rule


def register(verbs: Group) -> None:
    parser = add_verb(
        verbs, "shaping", _shaping, "show what the replies of other servers slow down, and which rule says so"
    )
    parser.add_argument(
        "reply",
        nargs="*",
        metavar="REPLY",
        help="a reply, or one of the words for faults (default: all rules)",
    )
    parser.add_argument("--lane", metavar="LANE", default="", help="as this lane would meet it")


def _shaping(options: Namespace) -> int:
    from pillarbox.app.config_load import load
    from pillarbox.app.config_shaping import load_rules
    from pillarbox.engine.shaping_rules import first_match

    rules = load_rules(load(options.config).shaping)
    met: tuple[Rule, ...] = rules.for_lane(options.lane) if options.lane or options.reply else rules.rules
    if options.reply:
        rule = first_match(met, _heard(" ".join(options.reply)))
        met = () if rule is None else (rule,)
    if options.json:
        print(as_json([_data(rule) for rule in met]))
    elif not options.reply:
        print(table((rule.name, rule.matched, rule.effect) for rule in met))
    else:
        print("\n".join(_told(rule) for rule in met) or "no rule: nothing is slowed down")
    return 0


def _heard(text: str) -> Heard:
    """Raises Refused."""
    from pillarbox.engine.shaping_rules import Fault, Heard, reply_heard

    words = {fault.value: fault for fault in Fault}
    if text in words:
        return Heard(text, fault=words[text])
    if not (found := reply_heard(text)).code:
        allowed = ", ".join(words)
        raise Refused(
            f"shaping {visible(text)}: neither a reply, with its code in front, nor one of {allowed}", usage=True
        )
    return found


def _told(rule: Rule) -> str:
    return f"{rule.name}: {rule.effect}\n  it matches {rule.matched}"


def _data(rule: Rule) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "code": rule.codes,
        "status": rule.statuses,
        "text": None if rule.text is None else rule.text.pattern,
        "fault": [fault.value for fault in rule.faults],
        "lane": rule.lanes,
        "do": rule.action.value,
        "effect": rule.effect,
    }
