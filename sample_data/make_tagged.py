"""Write tagged.conllu: sentences with a part of speech for every word, from a grammar of our own.

    python sample_data/make_tagged.py > sample_data/tagged.conllu

Many words stand under several tags ("watch", "light", "can", "that", "to", "like", "well"), so a
tagger must look at their neighbours. Tags are the universal ones (universaldependencies.org); the
columns of lemmas, features and syntax are left open.
"""

import random
import re

COUNT = 420
SEED = 8

# What a symbol may become: other symbols, or words with their tag. Written twice: twice as likely.
GRAMMAR: dict[str, str] = {
    "S": "CLAUSE ./PUNCT | CLAUSE ./PUNCT | CLAUSE ./PUNCT | CLAUSE CC CLAUSE ./PUNCT"
    " | SC CLAUSE ,/PUNCT CLAUSE ./PUNCT | CLAUSE SC CLAUSE ./PUNCT | QUESTION ?/PUNCT"
    " | ORDER !/PUNCT | ORDER ./PUNCT | Well/INTJ ,/PUNCT CLAUSE ./PUNCT"
    " | NP SAY that/SCONJ CLAUSE ./PUNCT",
    "CLAUSE": "NP VP | NP VP | NP VP PP | NP AUX BASE | NP AUX BASE PP | NP NOT BASE"
    " | PP ,/PUNCT NP VP | there/PRON is/VERB DET NOUN PP | it/PRON is/AUX ADJ that/SCONJ NP VP"
    " | NP is/AUX ADJ | NP is/AUX too/ADV ADJ to/PART BASE | NP wants/VERB to/PART BASE",
    "QUESTION": "AUX NP BASE | AUX NP BASE PP | did/AUX NP BASE | why/ADV did/AUX NP BASE"
    " | who/PRON VP | is/AUX NP ADJ",
    "ORDER": "BASE | please/INTJ BASE | do/AUX n't/PART BASE | BASE PP | BASE before/SCONJ NP VP",
    "NP": "DET NOUN | DET NOUN | DET NOUN | DET ADJ NOUN | DET ADJ NOUN | DET NOUN PP | NAME | NAME"
    " | PRON | that/DET NOUN | DET NOUN that/PRON VP | DET NOUN NOUN",
    "OBJECT": "DET NOUN | DET NOUN | DET NOUN | DET ADJ NOUN | DET ADJ NOUN | DET NOUN PP | NAME"
    " | NOUNS | ADJ NOUNS | MANY NUM NOUNS | that/DET NOUN | that/PRON | it/PRON | her/PRON | him/PRON"
    " | DET NOUN that/PRON VP | DET NOUN NOUN",
    "MANY": "the/DET | her/PRON | these/DET | our/PRON",
    "VP": "TRANS OBJECT | TRANS OBJECT | INTRANS | INTRANS ADV | INTRANS PP | ADV TRANS OBJECT"
    " | TRANS OBJECT and/CCONJ INTRANS | looks/VERB like/ADP OBJECT | goes/VERB to/ADP DET PLACE",
    "BASE": "TBASE OBJECT | TBASE OBJECT | IBASE | IBASE ADV | IBASE PP | TBASE OBJECT well/ADV",
    "PP": "ADP DET NOUN | ADP DET NOUN | ADP NAME | ADP DET ADJ NOUN | to/ADP DET PLACE"
    " | before/ADP NOON | like/ADP DET NOUN | near/ADP DET PLACE",
    "NOT": "can/AUX not/PART | will/AUX not/PART | did/AUX n't/PART | does/AUX n't/PART"
    " | could/AUX n't/PART | must/AUX not/PART",
    "AUX": "can/AUX | can/AUX | will/AUX | will/AUX | must/AUX | could/AUX | might/AUX | should/AUX",
    "CC": "and/CCONJ | but/CCONJ | ,/PUNCT but/CCONJ | so/CCONJ",
    "SC": "when/SCONJ | because/SCONJ | before/SCONJ | while/SCONJ | if/SCONJ | since/SCONJ",
    "DET": "the/DET | the/DET | the/DET | a/DET | this/DET | every/DET | her/PRON | his/PRON"
    " | our/PRON | no/DET",
    "PRON": "she/PRON | he/PRON | everybody/PRON | nobody/PRON | that/PRON | it/PRON",
    "NAME": "Ada/PROPN | Will/PROPN | Rose/PROPN | Mark/PROPN | Bill/PROPN | Orme/PROPN"
    " | Grace/PROPN | Frank/PROPN | Miss/PROPN Reed/PROPN | May/PROPN",
    "NUM": "two/NUM | three/NUM | seven/NUM | 12/NUM | forty/NUM",
    "NOON": "noon/NOUN | dinner/NOUN | dawn/NOUN | Monday/PROPN | May/PROPN",
    "PLACE": "bank/NOUN | park/NOUN | well/NOUN | mill/NOUN | harbour/NOUN | station/NOUN"
    " | back/NOUN | play/NOUN | bridge/NOUN",
    "NOUN": "watch/NOUN | light/NOUN | can/NOUN | play/NOUN | cook/NOUN | ring/NOUN | park/NOUN"
    " | book/NOUN | paint/NOUN | rock/NOUN | drink/NOUN | walk/NOUN | fish/NOUN | sail/NOUN"
    " | bank/NOUN | hammer/NOUN | will/NOUN | well/NOUN | back/NOUN | cold/NOUN | fall/NOUN"
    " | guard/NOUN | iron/NOUN | mark/NOUN | plant/NOUN | rose/NOUN | bill/NOUN | garden/NOUN"
    " | baker/NOUN | captain/NOUN | letter/NOUN | teacher/NOUN | horse/NOUN | window/NOUN",
    "NOUNS": "watches/NOUN | lights/NOUN | plays/NOUN | cooks/NOUN | rings/NOUN | books/NOUN"
    " | rocks/NOUN | walks/NOUN | sails/NOUN | guards/NOUN | plants/NOUN | letters/NOUN"
    " | marks/NOUN | falls/NOUN | horses/NOUN",
    "ADJ": "light/ADJ | cold/ADJ | close/ADJ | fast/ADJ | hard/ADJ | well/ADJ | open/ADJ | back/ADJ"
    " | iron/ADJ | old/ADJ | quiet/ADJ | clean/ADJ | green/ADJ | late/ADJ | tired/ADJ | round/ADJ",
    "ADV": "fast/ADV | hard/ADV | well/ADV | back/ADV | late/ADV | close/ADV | quietly/ADV"
    " | often/ADV | home/ADV | again/ADV | slowly/ADV",
    "ADP": "in/ADP | on/ADP | near/ADP | with/ADP | from/ADP | round/ADP | behind/ADP | since/ADP"
    " | by/ADP | for/ADP",
    "SAY": "says/VERB | thinks/VERB | marks/VERB | books/VERB | knows/VERB | said/VERB | feared/VERB",
    "TRANS": "watches/VERB | lights/VERB | plays/VERB | cooks/VERB | rings/VERB | books/VERB"
    " | paints/VERB | rocks/VERB | plants/VERB | guards/VERB | marks/VERB | likes/VERB | saw/VERB"
    " | irons/VERB | opened/VERB | cleans/VERB | found/VERB | left/VERB | closed/VERB",
    "INTRANS": "walks/VERB | falls/VERB | sails/VERB | fell/VERB | rose/VERB | left/VERB"
    " | plays/VERB | rings/VERB | cooks/VERB | watches/VERB | sleeps/VERB | works/VERB | ran/VERB",
    "TBASE": "watch/VERB | light/VERB | play/VERB | cook/VERB | ring/VERB | park/VERB | book/VERB"
    " | paint/VERB | rock/VERB | drink/VERB | walk/VERB | hammer/VERB | back/VERB | guard/VERB"
    " | iron/VERB | mark/VERB | plant/VERB | like/VERB | close/VERB | open/VERB | clean/VERB"
    " | find/VERB | bill/VERB",
    "IBASE": "walk/VERB | fish/VERB | sail/VERB | fall/VERB | drink/VERB | cook/VERB | play/VERB"
    " | watch/VERB | sleep/VERB | work/VERB | rest/VERB | swim/VERB",
}

CHOICES = {symbol: text.split(" | ") for symbol, text in GRAMMAR.items()}
Word = tuple[str, str]  # form and tag


def expand(symbol: str, depth: int, rng: random.Random) -> list[Word]:
    """A random expansion; from some depth on the shortest choices are taken, so that it ends."""
    if "/" in symbol:
        form, tag = symbol.rsplit("/", 1)
        return [(form, tag)]
    choices = CHOICES[symbol]
    if depth > 4:
        fewest = min(len(choice.split()) for choice in choices)
        choices = [choice for choice in choices if len(choice.split()) == fewest]
    chosen = rng.choice(choices).split()
    return [word for part in chosen for word in expand(part, depth + 1, rng)]


def mend(words: list[Word]) -> list[Word]:
    """A capital at the start, and "an" where it belongs."""
    mended = []
    for (form, tag), following in zip(words, [*words[1:], ("", "")], strict=True):
        mended.append(("an" if form == "a" and re.match("[aeiou]", following[0]) else form, tag))
    first, tag = mended[0]
    return [(first[0].upper() + first[1:], tag), *mended[1:]]


def in_words(words: list[Word]) -> str:
    """The sentence as it is written."""
    text = " ".join(form for form, _ in words)
    return re.sub(r" ([.,?!]|n't)", r"\1", text)


def in_columns(words: list[Word]) -> list[str]:
    """The sentence in the ten columns of CoNLL-U; "did" and "n't" share a range."""
    lines = []
    for number, (form, tag) in enumerate(words, 1):
        following = words[number][0] if number < len(words) else ""
        if following == "n't":
            misc = "SpaceAfter=No" if words[number + 1][1] == "PUNCT" else "_"
            lines.append("\t".join([f"{number}-{number + 1}", form + following, *"_" * 7, misc]))
        close = tag != "PART" and following != "" and following in ".,?!"
        misc = "SpaceAfter=No" if close else "_"
        lines.append("\t".join([str(number), form, "_", tag, *"_" * 5, misc]))
    return lines


def main() -> None:
    """Write the corpus to standard output."""
    rng = random.Random(SEED)
    seen: set[str] = set()
    while len(seen) < COUNT:
        words = mend(expand("S", 0, rng))
        text = in_words(words)
        if text in seen or not 3 <= len(words) <= 22:
            continue
        seen.add(text)
        print(f"# sent_id = {len(seen)}\n# text = {text}")
        print("\n".join(in_columns(words)) + "\n")


if __name__ == "__main__":
    main()
