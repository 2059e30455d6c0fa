"""Write pairs.tsv: English sentences with their German translations, from one grammar for both.

    python sample_data/make_pairs.py > sample_data/pairs.tsv

Each sentence is put together once and said twice, so the German is what the English says: articles
and adjectives agree in gender, number and case, the verb stands second, at the end of a clause or
first in a question, and verbs that come apart do so. Few words, in ever new sentences: what a model
has to learn is grammar.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

COUNT = 2400
SEED = 5

# English singular and plural, German article, singular and plural; last the singular in all cases
# but the nominative where it differs.
NOUNS = {
    "person": """
        captain captains der Kapitän Kapitäne | sailor sailors der Matrose Matrosen Matrosen
        teacher teachers die Lehrerin Lehrerinnen | baker bakers der Bäcker Bäcker
        doctor doctors die Ärztin Ärztinnen | girl girls das Mädchen Mädchen
        boy boys der Junge Jungen Jungen | child children das Kind Kinder
        fisherman fishermen der Fischer Fischer | man men der Mann Männer
        friend friends der Freund Freunde""",
    "animal": """
        dog dogs der Hund Hunde | cat cats die Katze Katzen | seagull seagulls die Möwe Möwen
        horse horses das Pferd Pferde | goose geese die Gans Gänse""",
    "thing": """
        boat boats das Boot Boote | bridge bridges die Brücke Brücken
        bicycle bicycles das Fahrrad Fahrräder | lamp lamps die Lampe Lampen
        table tables der Tisch Tische | house houses das Haus Häuser | wagon wagons der Wagen Wagen""",
    "goods": """
        hat hats der Hut Hüte | coat coats der Mantel Mäntel | rose roses die Rose Rosen
        ring rings der Ring Ringe""",
    "food": """
        apple apples der Apfel Äpfel | cake cakes der Kuchen Kuchen | carrot carrots die Karotte Karotten
        pear pears die Birne Birnen | egg eggs das Ei Eier""",
    "text": """
        letter letters der Brief Briefe | book books das Buch Bücher | story stories die Geschichte Geschichten
        song songs das Lied Lieder | diary diaries das Tagebuch Tagebücher""",
    "container": """
        door doors die Tür Türen | window windows das Fenster Fenster | box boxes die Kiste Kisten
        suitcase suitcases der Koffer Koffer""",
}

# English base, third person, past; German infinitive (with a bar behind a prefix that comes apart),
# third person, participle (with + if it goes with "sein").
VERBS = {
    "person>thing": """
        paint paints painted streichen streicht gestrichen
        repair repairs repaired reparieren repariert repariert""",
    "person>thing goods": """
        buy buys bought kaufen kauft gekauft | sell sells sold verkaufen verkauft verkauft
        clean cleans cleaned putzen putzt geputzt | carry carries carried tragen trägt getragen
        draw draws drew zeichnen zeichnet gezeichnet""",
    "person>goods food text": """
        choose chooses chose aus|suchen sucht ausgesucht | bring brings brought mit|bringen bringt mitgebracht
        buy buys bought kaufen kauft gekauft | find finds found finden findet gefunden
        lose loses lost verlieren verliert verloren | hide hides hid verstecken versteckt versteckt""",
    "person animal>food": "eat eats ate essen isst gegessen",
    "person>text": """
        read reads read lesen liest gelesen | write writes wrote schreiben schreibt geschrieben
        understand understands understood verstehen versteht verstanden""",
    "person>container": """
        open opens opened auf|machen macht aufgemacht | close closes closed zu|machen macht zugemacht
        paint paints painted streichen streicht gestrichen""",
    "person>person": """
        invite invites invited ein|laden lädt eingeladen | call calls called an|rufen ruft angerufen
        visit visits visited besuchen besucht besucht | meet meets met treffen trifft getroffen
        ask asks asked fragen fragt gefragt""",
    "person animal>person animal": """
        see sees saw sehen sieht gesehen | hear hears heard hören hört gehört
        love loves loved lieben liebt geliebt | look#for looks#for looked#for suchen sucht gesucht""",
    "person animal>*person": """
        help helps helped helfen hilft geholfen | thank thanks thanked danken dankt gedankt
        follow follows followed folgen folgt gefolgt+ | trust trusts trusted vertrauen vertraut vertraut""",
    "person>": """
        sing sings sang singen singt gesungen | work works worked arbeiten arbeitet gearbeitet
        dance dances danced tanzen tanzt getanzt | laugh laughs laughed lachen lacht gelacht""",
    "person animal>": """
        sleep sleeps slept schlafen schläft geschlafen | wait waits waited warten wartet gewartet
        swim swims swam schwimmen schwimmt geschwommen+ | arrive arrives arrived an|kommen kommt angekommen+
        stay stays stayed bleiben bleibt geblieben+""",
}
GIVEN = """
    give gives gave geben gibt gegeben | show shows showed zeigen zeigt gezeigt
    send sends sent schicken schickt geschickt"""

# English, German; the comparatives.
ADJECTIVES = {
    "person": """
        old alt older älter | clever klug cleverer klüger | happy glücklich happier glücklicher
        tall groß taller größer | tired müde more#tired müder""",
    "animal": """
        old alt older älter | small klein smaller kleiner | wild wild wilder wilder
        hungry hungrig hungrier hungriger""",
    "food": """
        sweet süß sweeter süßer | fresh frisch fresher frischer | cold kalt colder kälter
        big groß bigger größer""",
    "text": """
        old alt older älter | new neu newer neuer | long lang longer länger | sad traurig sadder trauriger
        beautiful schön more#beautiful schöner""",
    "goods": """
        new neu newer neuer | beautiful schön more#beautiful schöner | small klein smaller kleiner
        red rot redder röter""",
    "other": """
        old alt older älter | new neu newer neuer | small klein smaller kleiner | big groß bigger größer
        heavy schwer heavier schwerer | green grün greener grüner""",
}
PLACES = """in the garden=im Garten|in the harbour=im Hafen|on the bridge=auf der Brücke
at the station=am Bahnhof|behind the house=hinter dem Haus|under the old tree=unter dem alten Baum
at the market=auf dem Markt|in the kitchen=in der Küche|by the lake=am See
in front of the church=vor der Kirche|on the island=auf der Insel|next to the mill=neben der Mühle"""
NOW = """today=heute|every morning=jeden Morgen|in the evening=am Abend|on Sunday=am Sonntag
now=jetzt|in summer=im Sommer|after the storm=nach dem Sturm|before breakfast=vor dem Frühstück"""
THEN = """yesterday=gestern|last week=letzte Woche|on Monday=am Montag|in winter=im Winter
after the storm=nach dem Sturm|two years ago=vor zwei Jahren"""
# English, German; the number and person they take, and the German stem of the possessive.
PRONOUNS = (
    "I ich 1 my mein|he er 3 his sein|she sie 3 her ihr|we wir p our unser|they sie p their ihr"
)
NAMES = "Anna Paul Emma Otto Klara Max"
MODALS = "must müssen muss|can können kann|should sollten sollte|wants#to wollen will"
LINKS = "because=weil|when=wenn|although=obwohl|while=während"

DEFINITE = {"der": "der den dem", "die": "die die der", "das": "das das dem", "p": "die die den"}
ENDING = {"der": " en em", "die": "e e er", "das": "  em", "p": "e e en"}  # of ein, kein, mein
MIXED = {"der": "er en en", "die": "e e en", "das": "es es en", "p": "en en en"}
WEAK = {"der": "e en en", "die": "e e en", "das": "e e en", "p": "en en en"}
STRONG = {"p": "e e en"}  # of plurals without an article
NOMINATIVE, ACCUSATIVE, DATIVE = range(3)


class Said(NamedTuple):
    """A part of a sentence in both languages."""

    english: str
    german: str
    person: str = "3"  # 1 or 3 of the singular, p for the plural
    gender: str = "der"
    bare: bool = False  # a plural without an article


class Verb(NamedTuple):
    """A verb with what it needs, in both languages."""

    base: str
    third: str
    past: str
    prefix: str  # of a verb that comes apart
    infinitive: str  # without the prefix
    finite: str  # third person singular, without the prefix
    participle: str
    auxiliary: str
    subjects: list[str]
    objects: list[str]
    case: int


def entries(text: str, mark: str = "|") -> list[list[str]]:
    """The words of each entry, # standing for a space."""
    lines = text.strip().replace("\n", mark)
    found = [[word.replace("#", " ") for word in entry.split()] for entry in lines.split(mark)]
    return [entry for entry in found if entry]


def phrases(text: str) -> list[Said]:
    """Parts that never change."""
    return [Said(*part.strip().split("=")) for part in text.replace("\n", "|").split("|")]


def make_verb(words: list[str], kinds: str) -> Verb:
    base, third, past, whole, finite, participle = words
    prefix, _, infinitive = whole.rpartition("|")
    subjects, _, objects = kinds.partition(">")
    return Verb(
        base,
        third,
        past,
        prefix,
        infinitive,
        finite,
        participle.removesuffix("+"),
        "sein" if participle.endswith("+") else "haben",
        subjects.split(),
        objects.removeprefix("*").split(),
        DATIVE if objects.startswith("*") else ACCUSATIVE,
    )


def bar_entries(text: str) -> list[list[str]]:
    """Entries of verbs, whose infinitives hold a bar of their own."""
    return entries(text.replace(" | ", "\n"), "\n")


ALL_VERBS = [
    make_verb(words, kinds) for kinds, text in VERBS.items() for words in bar_entries(text)
]
GIVING = [make_verb(words, "person>person") for words in bar_entries(GIVEN)]
WITH_OBJECT = [verb for verb in ALL_VERBS if verb.objects]
WITHOUT = [verb for verb in ALL_VERBS if not verb.objects]
TIMES, PAST_TIMES, SPOTS = phrases(NOW), phrases(THEN), phrases(PLACES)


class Writer:
    """Makes sentences; everything by chance."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def noun(self, kinds: list[str], case: int = NOMINATIVE, *, plain: bool = False) -> Said:
        """An article or the like, perhaps an adjective, and a noun."""
        kind = self.rng.choice(kinds)
        one, many, gender, single, several, *oblique = self.rng.choice(entries(NOUNS[kind]))
        plural = self.rng.random() < 0.25
        form = "p" if plural else gender
        spelled = several if plural else single
        if case != NOMINATIVE and oblique and not plural:
            spelled = oblique[0]
        if case == DATIVE and plural and spelled[-1] not in "ns":
            spelled += "n"
        adjective = [] if plain or self.rng.random() < 0.6 else self.adjective(kind)
        word = self.rng.choice(["the", "the", "the", "a", "mine"])
        endings = WEAK if word == "the" else STRONG if word == "a" and plural else MIXED
        described = [
            german.removesuffix("e") + endings[form].split()[case] for german in adjective[1:2]
        ]
        if word == "the":
            before, article = "the", DEFINITE[form].split()[case]
        elif word == "a":
            before = "" if plural else "an" if [*adjective[:1], one][0][0] in "aeiou" else "a"
            article = "" if plural else "ein" + ENDING[form].split(" ")[case]
        else:
            _, _, _, before, stem = self.rng.choice(entries(PRONOUNS))
            article = stem + ENDING[form].split(" ")[case]
        english = " ".join(filter(None, [before, *adjective[:1], many if plural else one]))
        german = " ".join(filter(None, [article, *described, spelled]))
        return Said(english, german, "p" if plural else "3", form, bare=not article)

    def adjective(self, kind: str) -> list[str]:
        """An adjective and its comparative, English, German, English, German."""
        return self.rng.choice(entries(ADJECTIVES.get(kind, ADJECTIVES["other"])))

    def subject(self, kinds: list[str]) -> Said:
        """A noun, a pronoun or a name."""
        draw = self.rng.random()
        if draw < 0.25 and "person" in kinds:
            english, german, person, *_ = self.rng.choice(entries(PRONOUNS))
            return Said(english, german, person)
        if draw < 0.35 and "person" in kinds:
            name = self.rng.choice(NAMES.split())
            return Said(name, name)
        return self.noun(kinds)

    def action(self) -> tuple[Verb, Said]:
        """A verb and what follows it in the middle of a German sentence."""
        if self.rng.random() < 0.1:
            verb = self.rng.choice(GIVING)
            whom, what = self.noun(["person"], DATIVE), self.noun(["goods", "text"], ACCUSATIVE)
            return verb, Said(f"{whom.english} {what.english}", f"{whom.german} {what.german}")
        if self.rng.random() < 0.25:
            return self.rng.choice(WITHOUT), Said("", "")
        verb = self.rng.choice(WITH_OBJECT)
        return verb, self.noun(verb.objects, verb.case)

    def clause(self) -> tuple[Said, Verb, Said, Said, Said]:
        """Subject, verb, objects, time and place; the last two may be empty."""
        verb, what = self.action()
        when = self.rng.choice(TIMES) if self.rng.random() < 0.3 else Said("", "")
        where = self.rng.choice(SPOTS) if self.rng.random() < 0.3 else Said("", "")
        return self.subject(verb.subjects), verb, what, when, where

    def sentence(self) -> tuple[str, str]:
        """A whole sentence of some kind, in both languages."""
        kinds: list[Callable[[], tuple[str, str]]] = [
            *[self.statement] * 3,
            *[self.past] * 3,
            *[self.modal] * 2,
            *[self.subordinate] * 2,
            self.fronted,
            self.negated,
            self.question,
            self.asked,
            self.compared,
            self.related,
            self.tried,
        ]
        return self.rng.choice(kinds)()

    def statement(self) -> tuple[str, str]:
        who, verb, what, when, where = self.clause()
        middle = [when.german, what.german, where.german, verb.prefix]
        english = [who.english, said(verb, who), what.english, where.english, when.english]
        if when.german and self.rng.random() < 0.5:
            english = [when.english + ",", *english[:-1]]
            return join(english, "."), join(
                [when.german, finite(verb, who), who.german, *middle[1:]], "."
            )
        return join(english, "."), join([who.german, finite(verb, who), *middle], ".")

    def past(self) -> tuple[str, str]:
        who, verb, what, _, where = self.clause()
        when = self.rng.choice(PAST_TIMES)
        helper = auxiliary(verb, who)
        end = [what.german, where.german, verb.participle]
        if self.rng.random() < 0.5:
            english = [when.english + ",", who.english, verb.past, what.english, where.english]
            return join(english, "."), join([when.german, helper, who.german, *end], ".")
        english = [who.english, verb.past, what.english, where.english, when.english]
        return join(english, "."), join([who.german, helper, when.german, *end], ".")

    def modal(self) -> tuple[str, str]:
        who, verb, what, when, where = self.clause()
        english, german = modal_of(self.rng.choice(entries(MODALS)), who)
        end = [when.german, what.german, where.german, verb.prefix + verb.infinitive]
        return join(
            [who.english, english, verb.base, what.english, where.english, when.english], "."
        ), join([who.german, german, *end], ".")

    def subordinate(self) -> tuple[str, str]:
        who, verb, what, _, where = self.clause()
        inner = Said(
            join([who.english, said(verb, who), what.english, where.english]),
            join([who.german, what.german, where.german, verb.prefix + finite(verb, who)]),
        )
        if self.rng.random() < 0.4:
            lead = self.rng.choice(
                phrases(
                    "I know that=ich weiß, dass|we hope that=wir hoffen, dass|Emma says that=Emma sagt, dass"
                )
            )
            return join([lead.english, inner.english], "."), join([lead.german, inner.german], ".")
        link = self.rng.choice(phrases(LINKS))
        outer = self.rng.choice(WITHOUT)
        doer = self.subject(outer.subjects)
        first = join([doer.german, finite(outer, doer), outer.prefix]) + ","
        return join([doer.english, said(outer, doer), link.english, inner.english], "."), join(
            [first, link.german, inner.german], "."
        )

    def fronted(self) -> tuple[str, str]:
        who, verb, what, _, where = self.clause()
        link = self.rng.choice(phrases(LINKS)[:3])
        inner = self.rng.choice(WITHOUT)
        doer = self.noun(inner.subjects)
        english = [link.english, doer.english, said(inner, doer) + ",", who.english]
        end = inner.prefix + finite(inner, doer) + ","
        german = [link.german, doer.german, end, finite(verb, who), who.german]
        return join([*english, said(verb, who), what.english, where.english], "."), join(
            [*german, what.german, where.german, verb.prefix], "."
        )

    def negated(self) -> tuple[str, str]:
        verb = self.rng.choice(ALL_VERBS)
        who = self.subject(verb.subjects)
        what = self.noun(verb.objects, verb.case) if verb.objects else Said("", "")
        no = "do not" if who.person != "3" else "does not"
        if what.german.startswith("ein"):  # not a: kein
            german = [who.german, finite(verb, who), "k" + what.german, verb.prefix]
        elif what.bare:
            return self.negated()  # a plural that would need kein and other endings
        else:
            german = [who.german, finite(verb, who), what.german, "nicht", verb.prefix]
        return join([who.english, no, verb.base, what.english], "."), join(german, ".")

    def question(self) -> tuple[str, str]:
        who, verb, what, when, where = self.clause()
        end = [when.german, what.german, where.german]
        tail = [verb.base, what.english, where.english, when.english]
        if self.rng.random() < 0.5:
            helper = "does" if who.person == "3" else "do"
            german = [finite(verb, who), who.german, *end, verb.prefix]
        else:
            helper = "did"
            when = self.rng.choice(PAST_TIMES)
            tail[-1], end[0] = when.english, when.german
            german = [auxiliary(verb, who), who.german, *end, verb.participle]
        return join([helper, who.english, *tail], "?"), join(german, "?")

    def asked(self) -> tuple[str, str]:
        verb, what = self.action()
        word = self.rng.choice(phrases("why=warum|when=wann|where=wo|who=wer"))
        if word.english == "who":
            who = Said("who", "wer")
            return join(["who", verb.third, what.english], "?"), join(
                ["wer", finite(verb, who), what.german, verb.prefix], "?"
            )
        who = self.subject(verb.subjects)
        helper = "does" if who.person == "3" else "do"
        return join([word.english, helper, who.english, verb.base, what.english], "?"), join(
            [word.german, finite(verb, who), who.german, what.german, verb.prefix], "?"
        )

    def compared(self) -> tuple[str, str]:
        kind = self.rng.choice([*NOUNS])
        one, other = self.noun([kind], plain=True), self.noun([kind], plain=True)
        if one.english.split()[-1][:4] == other.english.split()[-1][:4]:
            return self.compared()  # no chair is older than a chair
        adjective = self.adjective(kind)
        english, german = ("are", "sind") if one.person == "p" else ("is", "ist")
        if self.rng.random() < 0.4:
            very = self.rng.choice(phrases("very=sehr|not=nicht|too=zu"))
            return join([one.english, english, very.english, adjective[0]], "."), join(
                [one.german, german, very.german, adjective[1]], "."
            )
        return join([one.english, english, adjective[2], "than", other.english], "."), join(
            [one.german, german, adjective[3], "als", other.german], "."
        )

    def related(self) -> tuple[str, str]:
        verb, what = self.action()
        who = self.noun([kind for kind in verb.subjects if kind == "person"], plain=True)
        outer = self.rng.choice(WITHOUT)
        pronoun = "die" if who.gender in ("die", "p") else who.gender
        where = self.rng.choice(SPOTS) if self.rng.random() < 0.5 else Said("", "")
        inner = [what.german, verb.prefix + finite(verb, who) + ","]
        return join(
            [who.english, "who", said(verb, who), what.english, said(outer, who), where.english],
            ".",
        ), join(
            [who.german + ",", pronoun, *inner, finite(outer, who), where.german, outer.prefix], "."
        )

    def tried(self) -> tuple[str, str]:
        verb = self.rng.choice([verb for verb in WITH_OBJECT if "person" in verb.subjects])
        what, who = self.noun(verb.objects, verb.case), self.subject(["person"])
        try_to = make_verb(entries("try tries tried versuchen versucht versucht")[0], "person>")
        ending = f"{verb.prefix}zu{verb.infinitive}" if verb.prefix else f"zu {verb.infinitive}"
        return join([who.english, said(try_to, who), "to", verb.base, what.english], "."), join(
            [who.german, finite(try_to, who) + ",", what.german, ending], "."
        )


def said(verb: Verb, who: Said) -> str:
    """The English verb for somebody, in the present."""
    return verb.third if who.person == "3" else verb.base


def finite(verb: Verb, who: Said) -> str:
    """The German verb for somebody, in the present, without its prefix."""
    if who.person == "p":
        return verb.infinitive
    return verb.finite if who.person == "3" else verb.infinitive.removesuffix("n")


def auxiliary(verb: Verb, who: Said) -> str:
    forms = {"haben": "habe hat haben", "sein": "bin ist sind"}[verb.auxiliary].split()
    return forms["13p".index(who.person)]


def modal_of(modal: list[str], who: Said) -> tuple[str, str]:
    """A modal verb for somebody."""
    english, many, single = modal
    if who.person != "3":
        english = english.replace("wants", "want")
    return english, many if who.person == "p" else single


def join(words: list[str], end: str = "") -> str:
    """Words as a text; with an end also a capital at its beginning."""
    text = " ".join(filter(None, words))
    return text[:1].upper() + text[1:] + end if end else text


def main() -> None:
    """Write the pairs to standard output."""
    writer = Writer(SEED)
    found: dict[str, str] = {}
    while len(found) < COUNT:
        english, german = writer.sentence()
        if len(english.split()) <= 16:
            found.setdefault(english, german)
    print("english\tgerman")
    for english, german in found.items():
        print(f"{english}\t{german}")


if __name__ == "__main__":
    main()
