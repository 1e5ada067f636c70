"""SCRAM-SHA-256 and -PLUS: the example of RFC 7677, a second implementation on the other side, and every way to err."""

from __future__ import annotations

from base64 import b64encode
from hashlib import pbkdf2_hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient as TheirClient
from scramp import ScramMechanism

from pillarbox.smtp.sasl import Challenge, Credentials, Derivation, KeysWanted, SaslError, ServerStep, Verdict
from pillarbox.smtp.scram import MAX_ITERATIONS, MAX_NONCE, ScramClient, ScramKeys, ScramServer, Verifier, keys_of
from tests.making import FixedChannel

# RFC 7677 §3
SALT = b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81"
NONCE, THEIRS = "rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
FIRST = f"n,,n=user,r={NONCE}".encode()
ANSWER = f"r={NONCE}{THEIRS},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode()
FINAL = f"c=biws,r={NONCE}{THEIRS},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()
PROOF = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

PENCIL = keys_of(pbkdf2_hmac("sha256", b"pencil", SALT, 4096), SALT, 4096)
BOUND = FixedChannel({"tls-exporter": b"exported" * 4, "tls-server-end-point": b"hashed" * 5})
END_POINT = FixedChannel({"tls-server-end-point": b"hashed" * 5})


def server(channel: FixedChannel | None = None, *, plus: bool = False, may_bind: bool = False) -> ScramServer:
    return ScramServer(channel, plus=plus, may_bind=may_bind)


def keyed(machine: ScramServer, *, usable: bool = True, first: bytes = FIRST) -> ScramServer:
    """Up to its challenge."""
    assert isinstance(machine.begin(first), KeysWanted)
    machine.challenge(Verifier(PENCIL, THEIRS, usable))
    return machine


def client(channel: FixedChannel | None = None, *, plus: bool = False, kind: str = "tls-exporter") -> ScramClient:
    octets = None if channel is None else channel.binding(kind)
    binding = None if octets is None else (kind, octets)
    return ScramClient(Credentials("user", "pencil"), nonce=NONCE, binding=binding, plus=plus)


def salted(wanted: bytes | Derivation) -> bytes:
    assert isinstance(wanted, Derivation)
    return pbkdf2_hmac("sha256", wanted.password.encode(), wanted.salt, wanted.iterations)


# --- the example


def test_the_server_of_the_example() -> None:
    machine = server()
    assert machine.begin(None) == Challenge(b"")
    assert machine.respond(FIRST) == KeysWanted("user")
    assert machine.challenge(Verifier(PENCIL, THEIRS, usable=True)) == Challenge(ANSWER)
    assert machine.respond(FINAL) == Challenge(PROOF)
    assert machine.respond(b"") is Verdict.GRANTED


def test_the_client_of_the_example() -> None:
    machine = client()
    assert (machine.name, machine.initial, machine.satisfied) == ("SCRAM-SHA-256", FIRST, False)
    assert machine.derived(salted(machine.respond(ANSWER))) == FINAL
    assert not machine.satisfied
    assert machine.respond(PROOF) == b"" and machine.satisfied


# --- somebody else's implementation on the other side


@pytest.mark.parametrize("plus", [False, True])
def test_another_client_logs_in_here(plus: bool) -> None:
    name = "SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256"
    binding = ("tls-server-end-point", b"hashed" * 5) if plus else None
    them = TheirClient([name], "us,er=", "pencil", channel_binding=binding)
    machine = server(END_POINT if plus else None, plus=plus, may_bind=plus)
    assert machine.begin(them.get_client_first().encode()) == KeysWanted("us,er=")
    them.set_server_first(machine.challenge(Verifier(PENCIL, "abc", usable=True)).octets.decode())
    step = machine.respond(them.get_client_final().encode())
    assert isinstance(step, Challenge)
    them.set_server_final(step.octets.decode())
    assert machine.respond(b"") is Verdict.GRANTED


@pytest.mark.parametrize("plus", [False, True])
def test_we_log_in_at_another_server(plus: bool) -> None:
    mechanism = ScramMechanism("SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256")
    kept = mechanism.make_auth_info("pencil", iteration_count=5000)
    binding = ("tls-server-end-point", b"hashed" * 5) if plus else None
    them = mechanism.make_server(lambda name: kept if name == "user" else None, channel_binding=binding)
    machine = client(END_POINT if plus else None, plus=plus, kind="tls-server-end-point")
    them.set_client_first((machine.initial or b"").decode())
    wanted = machine.respond(them.get_server_first().encode())
    them.set_client_final(machine.derived(salted(wanted)).decode())
    assert machine.respond(them.get_server_final().encode()) == b"" and machine.satisfied


# --- the channel


def talk(machine: ScramServer, them: ScramClient, *, usable: bool = True) -> ServerStep:
    """The server's step behind the client's proof, or the one that ended it before."""
    step = machine.begin(them.initial)
    if not isinstance(step, KeysWanted):
        return step
    challenge = machine.challenge(Verifier(PENCIL, THEIRS, usable))
    return machine.respond(them.derived(salted(them.respond(challenge.octets))))


@pytest.mark.parametrize("kind", ["tls-exporter", "tls-server-end-point"])
def test_a_login_is_bound_to_its_channel(kind: str) -> None:
    them = client(BOUND, plus=True, kind=kind)
    assert (them.initial or b"").startswith(f"p={kind},,n=user".encode())
    assert isinstance(talk(server(BOUND, plus=True, may_bind=True), them), Challenge)
    elsewhere = FixedChannel({kind: b"another channel"})
    assert talk(server(elsewhere, plus=True, may_bind=True), client(BOUND, plus=True, kind=kind)) is Verdict.DENIED


def test_a_client_that_could_bind_and_was_not_offered_it_says_so() -> None:
    """RFC 5802 §6: where it was offered in truth, somebody has taken the offer away."""
    assert (client(BOUND).initial or b"").startswith(b"y,,")
    assert talk(server(BOUND, may_bind=True), client(BOUND)) is Verdict.DENIED
    assert isinstance(talk(server(), client(BOUND)), Challenge)
    assert isinstance(talk(server(BOUND, may_bind=True), client()), Challenge), "it can't bind: n"


@pytest.mark.parametrize("flag", ["n", "y", "p=tls-unique", "p=tls-exporter"])
def test_what_plus_does_not_take(flag: str) -> None:
    machine = server(END_POINT, plus=True, may_bind=True)
    assert machine.begin(f"{flag},,n=user,r=abc".encode()) is Verdict.DENIED


def test_a_binding_without_plus() -> None:
    assert server(BOUND, may_bind=True).begin(b"p=tls-exporter,,n=user,r=abc") is Verdict.DENIED


def test_the_header_is_part_of_the_proof() -> None:
    """A client that said y and means n, or acts as somebody else, was tampered with."""
    machine = keyed(server(), first=FIRST.replace(b"n,,", b"n,a=user,"))
    assert machine.respond(FINAL) is Verdict.DENIED


# --- who is let in


def test_the_right_proof_of_who_may_not_log_in() -> None:
    assert talk(server(), client(), usable=False) is Verdict.DENIED


def test_the_wrong_password() -> None:
    them = ScramClient(Credentials("user", "pencils"), nonce=NONCE, binding=None, plus=False)
    assert talk(server(), them) is Verdict.DENIED


@pytest.mark.parametrize(
    ("octets", "wanted"),
    [
        (b"n,a=other,n=user,r=abc", KeysWanted("user", "other")),
        (b"n,,n=a=2Cb=3Dc,r=abc", KeysWanted("a,b=c")),
        ("y,,n=jürgen,r=abc".encode(), KeysWanted("jürgen")),
        (b"n,,n=user,r=abc,x=more,y=andmore", KeysWanted("user")),
    ],
)
def test_first_messages(octets: bytes, wanted: KeysWanted) -> None:
    assert server().begin(octets) == wanted


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"user",
        b"n,,",
        b"n,,n=user",
        b"n,,r=abc,n=user",
        b"n,,n=,r=abc",
        b"n,,n=user,r=",
        b"n,,n=user,r=a b",
        b"n,,n=us=2Der,r=abc",
        b"n,,n=us\0er,r=abc",
        b"n,,m=ext,n=user,r=abc",  # a mandatory extension: none is known
        b"n,,n=user,r=abc,x",
        b"q,,n=user,r=abc",
        b"p=,,n=user,r=abc",
        b"n,n=user,r=abc",
        b"n,b=other,n=user,r=abc",
        b"n,,n=\xff,r=abc",
        b"n,,n=user,r=" + b"x" * (MAX_NONCE + 1),
        b"n,,n=" + b"x" * 256 + b",r=abc",
        b"n,,n=user,r=abc\n",
    ],
)
def test_first_messages_that_are_none(octets: bytes) -> None:
    assert server().begin(octets) is Verdict.MALFORMED


@pytest.mark.parametrize(
    ("octets", "verdict"),
    [
        (b"", Verdict.MALFORMED),
        (FIRST, Verdict.MALFORMED),
        (FINAL.replace(b"c=biws", b"c=biw!"), Verdict.MALFORMED),
        (FINAL.replace(b"c=biws", b"c=b"), Verdict.MALFORMED),
        (FINAL.replace(b"c=biws,", b""), Verdict.MALFORMED),
        (FINAL.replace(THEIRS.encode(), b"stolen"), Verdict.MALFORMED),
        (FINAL.replace(NONCE.encode(), b"stolen"), Verdict.MALFORMED),
        (FINAL.partition(b",p=")[0], Verdict.MALFORMED),
        (FINAL + b"A", Verdict.MALFORMED),
        (FINAL.partition(b",p=")[0] + b",p=AAAA", Verdict.DENIED),
        (FINAL.replace(b"dHzb", b"dHzc"), Verdict.DENIED),
        (FINAL.replace(b"c=biws", b"c=eSws"), Verdict.DENIED),
        (FINAL.replace(b",p=", b",x=y,p="), Verdict.DENIED),
        (b"\xff", Verdict.MALFORMED),
    ],
)
def test_last_messages(octets: bytes, verdict: Verdict) -> None:
    assert keyed(server()).respond(octets) is verdict


def test_nothing_comes_behind_the_server_s_last_word() -> None:
    machine = keyed(server())
    assert machine.respond(FINAL) == Challenge(PROOF)
    assert machine.respond(b"x") is Verdict.MALFORMED


@given(st.binary(max_size=60))
def test_any_octets_come_to_something(octets: bytes) -> None:
    assert isinstance(server().begin(octets), KeysWanted | Verdict)
    assert keyed(server()).respond(octets) in (Verdict.MALFORMED, Verdict.DENIED)


# --- servers that make no sense to our client


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "is not one of SCRAM"),
        (b"\xff", "not UTF-8"),
        (b"e=other-error", "is not one of SCRAM"),
        (ANSWER.replace(b"i=4096", b"i=0"), "is not one of SCRAM"),
        (ANSWER.replace(b"i=4096", b"i=4095"), "4095 iterations: too few"),
        (ANSWER.replace(b"i=4096", f"i={MAX_ITERATIONS + 1}".encode()), "or too many"),
        (ANSWER.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s=W22"), "is not one of SCRAM"),
        (ANSWER.replace(NONCE.encode(), b"another"), "answers somebody else"),
        (ANSWER.replace(THEIRS.encode(), b""), "answers somebody else"),
        (b"m=x," + ANSWER, "is not one of SCRAM"),
    ],
)
def test_first_answers_that_are_refused(answer: bytes, said: str) -> None:
    with pytest.raises(SaslError, match=said):
        client().respond(answer)


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        (b"", "is not one of SCRAM"),
        (b"v=", "is not one of SCRAM"),
        (b"e=invalid-proof", "the server says: invalid-proof"),
        (PROOF.replace(b"6rri", b"7rri"), "does not know the password"),
        (b"v=AAAA", "does not know the password"),
        (b"v=A", "does not know the password"),
    ],
)
def test_a_server_that_does_not_know_the_password(proof: bytes, said: str) -> None:
    machine = client()
    machine.derived(salted(machine.respond(ANSWER)))
    with pytest.raises(SaslError, match=said):
        machine.respond(proof)
    assert not machine.satisfied


def test_a_server_that_goes_on_behind_its_last_word() -> None:
    machine = client()
    machine.derived(salted(machine.respond(ANSWER)))
    machine.respond(PROOF)
    with pytest.raises(SaslError):
        machine.respond(PROOF)


# --- what is kept


def test_keys_are_kept_as_text() -> None:
    stored, signing = (b64encode(key).decode() for key in (PENCIL.stored_key, PENCIL.server_key))
    assert PENCIL.text == f"SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${stored}:{signing}"
    assert ScramKeys.parse(PENCIL.text) == PENCIL
    assert "server_key" not in repr(PENCIL) and "pencil" not in repr(client()._credentials)


@pytest.mark.parametrize("text", ["", "SCRAM-SHA-1$4096:AAAA$AAAA:AAAA", "SCRAM-SHA-256$0:AAAA$AAAA:AAAA", "x"])
def test_what_no_keys_are(text: str) -> None:
    with pytest.raises(ValueError, match="no SCRAM keys"):
        ScramKeys.parse(text)
