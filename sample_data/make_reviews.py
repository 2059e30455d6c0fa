"""Write reviews.csv: short reviews of made-up things, good and bad, from a grammar written for it.

    python sample_data/make_reviews.py > sample_data/reviews.csv

Most reviews praise and blame, and only how the parts are joined ("but", "although", "I had feared
that") tells what the writer thinks in the end. So words alone carry far, but not all the way.
"""

import csv
import random
import sys
from collections.abc import Sequence

COUNT = 660  # half good, half bad
SEED = 20

# For each kind of thing: settings that say nothing, what it is called, and its parts, each with
# what one says of it when pleased and when not. A part is the subject of both.
DOMAINS: dict[str, dict[str, list[str]]] = {
    "cafe": {
        "settings": [
            "We stopped there on the way back from the lighthouse.",
            "A table by the window was free at noon on a Tuesday.",
            "My aunt had booked for six of us.",
            "It is the one with the green awning next to the chemist.",
            "I had the leek soup and a pot of tea.",
        ],
        "names": ["this cafe", "the place", "lunch here", "the Copper Spoon"],
        "parts": [
            "the soup|was hot and full of flavour|tasted of actual vegetables|came in a generous bowl"
            "|was lukewarm and thin|tasted of the tin it came in|had been salted twice",
            "the waiter|remembered what everybody had asked for|found us a high chair unasked"
            "|joked with the children|brought the wrong order and sighed|forgot us for forty minutes"
            "|argued about the bill",
            "the coffee|smelled like a holiday|was strong without being bitter|came with a warm biscuit"
            "|was burnt|could have been dishwater|arrived cold and half in the saucer",
            "the cake|was still warm from the oven|melted on the tongue|was big enough for two"
            "|was dry as a sponge|had spent a week in that cabinet|was mostly icing and regret",
        ],
    },
    "book": {
        "settings": [
            "I read it over two wet weekends.",
            "Our reading group chose it for March.",
            "It is the third volume about the two sisters from Orme.",
            "The story begins with a letter that nobody opens.",
            "I borrowed it from the library on the corner.",
        ],
        "names": ["this novel", "the book", "her latest", "the whole story"],
        "parts": [
            "the plot|kept me up past midnight|turns when you least expect it|ties every thread at the end"
            "|falls apart in the middle|hangs on one silly coincidence|could be guessed by page thirty",
            "the narrator|is wonderful company|notices what others miss|grows on you with every chapter"
            "|explains everything twice|never stops whining|has the charm of a tax form",
            "the dialogue|crackles|sounds like people I know|made me laugh on the bus"
            "|creaks|sounds as if nobody had read it aloud|is padding and nothing else",
            "the ending|moved me to tears|is earned|stayed with me for days"
            "|comes out of nowhere|cheats the reader|feels rushed and hollow",
        ],
    },
    "tool": {
        "settings": [
            "I bought it to put up shelves in the cellar.",
            "It replaced a drill that my father had used for thirty years.",
            "The box holds two batteries and a case.",
            "I have used it on oak, brick and tile so far.",
            "A neighbour lent me hers before I ordered one.",
        ],
        "names": ["this drill", "the tool", "the whole set", "the cordless one"],
        "parts": [
            "the battery|lasts a whole day of work|charges in the time of a coffee break"
            "|still holds its charge after a year|dies after ten screws|stopped charging in a month"
            "|gets too hot to touch",
            "the chuck|grips like a vice|runs perfectly true|takes every bit I own"
            "|wobbles|lets go of the bit at the worst moment|seized up within a week",
            "the handle|fits my small hands|stays comfortable for hours|soaks up the vibration"
            "|gave me blisters|is slippery plastic|cracked when it fell off a chair",
            "the motor|pulls through oak without complaint|is quiet enough for Sunday mornings"
            "|has power to spare|screams and gives up in soft pine|smelled of burning on the first day"
            "|stalls as soon as it meets brick",
        ],
    },
    "train": {
        "settings": [
            "We took the 8.14 to the coast with two bicycles.",
            "I travel this line twice a week for work.",
            "It was the Sunday before the holidays.",
            "Our seats were in the last carriage.",
            "The journey takes three hours according to the timetable.",
        ],
        "names": ["the trip", "this line", "the night train", "the journey"],
        "parts": [
            "the seats|had room for long legs|were clean and softer than mine at home"
            "|leaned back far enough to sleep|were stained and sagging|had been made for children"
            "|squeaked at every bend",
            "the conductor|held the connection for us|found a place for the pram|knew every platform by heart"
            "|shrugged when we missed our connection|barked at an old man|was nowhere to be seen",
            "the train|left on the minute|glided along the river|arrived early for once"
            "|stood in a field for an hour|was cancelled without a word|crawled the last ten miles",
            "the heating|kept us snug in the snow|could be set at each seat|worked without a rattle"
            "|was stuck at thirty degrees|had failed in January|blew dust into our faces",
        ],
    },
    "film": {
        "settings": [
            "It is set in a fishing village in the fifties.",
            "We saw it in the small room of the Regal.",
            "It runs for a little over two hours.",
            "The director made the one about the clockmaker.",
            "My brother picked it because of the poster.",
        ],
        "names": ["the film", "this picture", "the sequel", "the whole thing"],
        "parts": [
            "the lead|carries every scene|breaks your heart with one look|has never been better"
            "|mumbles through every scene|has one face for all occasions|looks as bored as I was",
            "the music|gave me goosebumps|knows when to be silent|lifts even the quiet scenes"
            "|drowns every word|tells you what to feel and when|is one tune played forty times",
            "the script|trusts the audience|is sharp and funny|finds hope in small things"
            "|was written by a committee|explains the joke and then repeats it|has holes a bus could use",
            "the camera|lingers where it matters|makes rain look like silk|finds beauty in a car park"
            "|shakes until you feel ill|hides every fight in the dark|stares at nothing for minutes",
        ],
    },
    "app": {
        "settings": [
            "I installed it to keep track of my garden.",
            "It has been on my phone since the spring.",
            "Version four came out last week.",
            "My whole family shares one list in it.",
            "I use it mostly on the bus.",
        ],
        "names": ["this app", "the new version", "the paid version", "the program"],
        "parts": [
            "the sync|has never lost a note|is there before I have put the phone down|just works on the train too"
            "|ate a month of notes|makes two of everything|hangs at ninety-nine per cent",
            "the layout|is clear at a glance|can be used with one thumb|stays out of the way"
            "|hides the one button I need|changes with every update|was made for giants with good eyes",
            "the search|finds what I meant, not what I typed|answers at once|even reads my handwriting"
            "|finds nothing, not even today's note|takes longer than leafing through paper"
            "|shows advertisements first",
            "the support|answered within the hour|fixed my problem the same day|wrote like a human being"
            "|sent me the same link four times|has been silent since June|blamed my phone",
        ],
    },
    "hotel": {
        "settings": [
            "We stayed for three nights in early May.",
            "Our room was on the second floor above the yard.",
            "It lies ten minutes from the harbour on foot.",
            "I was there for a cousin's wedding.",
            "We had asked for a cot and a quiet room.",
        ],
        "names": ["the hotel", "our stay", "the Anchor", "the house"],
        "parts": [
            "the bed|was the best I have slept in for years|was wide and firm|had fresh linen every day"
            "|sagged like a hammock|creaked at every breath|had hairs of a stranger in it",
            "the breakfast|could have fed us until evening|had honey from the garden|was cooked to order"
            "|was yesterday's rolls|had run out by eight|consisted of one sad egg",
            "the bathroom|sparkled|had towels like clouds|had hot water at any hour"
            "|had mould in every corner|smelled of drains|flooded twice",
            "the receptionist|found us a taxi at four in the morning|kept our bags all day"
            "|greeted the dog by name|lost our booking|charged us for the minibar we never opened"
            "|rolled her eyes at every question",
        ],
    },
    "bicycle": {
        "settings": [
            "I ride it eight miles to work and back.",
            "It came in a flat box with half the screws in a bag.",
            "We bought two of them for the summer.",
            "I am on my second winter with it.",
            "My daughter got it for her twelfth birthday.",
        ],
        "names": ["this bicycle", "the bike", "the red model", "the folding one"],
        "parts": [
            "the brakes|stop on a wet hill without fuss|have needed no care at all|bite gently and surely"
            "|howl like wolves|did nothing in the rain|had to be replaced after a month",
            "the gears|click into place like a good lock|make light work of our hill"
            "|have stayed true for a thousand miles|jump under load|were never right from the first day"
            "|leave you spinning in the air",
            "the saddle|felt right from the first mile|has kept its shape|looks handsome with age"
            "|is an instrument of torture|split along the seam|sinks a little more each day",
            "the frame|is light enough for the stairs|shrugs off every pothole|came without a scratch"
            "|rusted over one winter|bends when you look at it|weighs as much as a cow",
        ],
    },
    "concert": {
        "settings": [
            "They played in the old grain store by the canal.",
            "We stood near the back on the left.",
            "It was the last evening of their tour.",
            "A string quartet opened for them.",
            "I had heard them once before, years ago.",
        ],
        "names": ["the concert", "the evening", "the show", "their set"],
        "parts": [
            "the singer|filled the hall without a microphone|talked to us like old friends|hit every high note"
            "|was flat from the first song|turned his back on us for an hour|had clearly lost his voice",
            "the sound|was clear in the last row|was warm and never too loud|let you hear each finger"
            "|was mud|hurt my ears|cut out in every other song",
            "the band|played as if it were their last night|improvised like magicians|came back four times"
            "|looked at the clock|missed half their entries|left after fifty minutes",
            "the hall|has seats one can sit in|was cool and airy|sells good beer at a fair price"
            "|was packed beyond safety|had a pillar before every seat|was as cold as a cellar",
        ],
    },
    "kettle": {
        "settings": [
            "It has stood in our kitchen since Easter.",
            "I chose the blue one with the wooden grip.",
            "We are five people who drink tea all day.",
            "It was a present from my colleagues.",
            "The manual comes in eleven languages.",
        ],
        "names": ["this kettle", "the thing", "the blue kettle", "the appliance"],
        "parts": [
            "the lid|opens with one finger|closes with a friendly click|never drips"
            "|flies open over the cup|stuck for good in week two|burnt my knuckles",
            "the spout|pours without a drop beside the cup|is easy to clean|fits the narrowest flask"
            "|dribbles down the side|sprays like a fountain|came off in my hand",
            "the switch|goes off the moment it boils|lights up softly in the dark|has a solid feel"
            "|never goes off by itself|broke off on the third day|gives little shocks",
            "the water|boils before I have found a cup|tastes of nothing, as it should|stays hot for an hour"
            "|tastes of plastic even now|takes a quarter of an hour|has black specks in it",
        ],
    },
    "course": {
        "settings": [
            "It ran for eight Thursdays in the town hall.",
            "We were fourteen beginners of all ages.",
            "I signed up to learn how to bind books.",
            "There was homework after each evening.",
            "The second half is about leather.",
        ],
        "names": ["the course", "these evenings", "the class", "the workshop"],
        "parts": [
            "the teacher|explains with endless patience|saw at once where each of us was stuck"
            "|loves what she does and it shows|read from her notes|laughed at our mistakes"
            "|came late and left early",
            "the material|was all there and of good quality|was sorted and sharp|could be taken home"
            "|was missing on three evenings|was blunt and worn|cost extra, as we learned later",
            "the pace|left time for questions|suited young and old|was brisk and never hurried"
            "|lost half the group by week two|would bore a snail|changed with her mood",
            "the group|became friends|helped each other along|laughed a lot"
            "|was twice as large as promised|never said a word|consisted of her cousins",
        ],
    },
}

OPENINGS = {
    True: ["I am glad I tried {name}.", "What a find.", "{Name} surprised me.", "{Name} won me over.",
           "I keep telling people about {name}.", "Well done.", "{Name} deserves its good name."],
    False: ["I regret {name}.", "What a letdown.", "{Name} disappointed me.", "{Name} lost me early.",
            "I keep warning people about {name}.", "Oh dear.", "{Name} does not deserve its good name."],
}  # fmt: skip

# {good} and {bad} are statements; each form says in the end what its list says.
FORMS = {
    True: [
        "{Good}, and {good2}.",
        "{Good}, and {good2}.",
        "{Good}. {Good2}.",
        "Yes, {bad}, but {good}.",
        "{Bad}, but {good}, and that is what counts.",
        "Although {bad}, {good}.",
        "I had feared that {bad} again; far from it: {good}.",
        "A friend had warned me that {bad}. Nonsense: {good}.",
        "{Good}, even if on one day {bad}.",
        "For all the talk, I cannot say that {bad}. {Good}.",
        "Last year {bad}. This time {good}.",
        "It is not true that {bad}.",
        "Other people wrote that {bad}; I saw none of that.",
        "{Good}; I would forgive them a lot for that, even that {bad}.",
        "Never mind that {bad}: {good}.",
    ],
    False: [
        "{Bad}, and {bad2}.",
        "{Bad}, and {bad2}.",
        "{Bad}. {Bad2}.",
        "Yes, {good}, but {bad}.",
        "{Good}, but {bad}, and that is what counts.",
        "Although {good}, {bad}.",
        "I had hoped that {good} again; far from it: {bad}.",
        "A friend had promised me that {good}. Nonsense: {bad}.",
        "{Bad}, even if on one day {good}.",
        "For all the talk, I cannot say that {good}. {Bad}.",
        "Last year {good}. This time {bad}.",
        "It is not true that {good}.",
        "Other people wrote that {good}; I saw none of that.",
        "{Bad}; I cannot forgive them for that, not even if {good}.",
        "What use is it that {good} when {bad}?",
    ],
}

CLOSINGS = {
    True: ["It has my vote.", "I would choose it again.", "Worth every penny.", "I could not ask for more.",
           "No complaints from me.", "I was wrong to hesitate.", "I looked for a fault and found none.",
           "I have not regretted it for a moment.", "Hard to beat.", "Not perfect, but close.",
           "You will not be sorry.", "Cheap it is not, and still it is a bargain."],
    False: ["It does not have my vote.", "I would not choose it again.", "Not worth a penny.", "I could ask for a lot more.",
            "Complaints were met with a smile.", "I was right to hesitate.", "I looked for a virtue and found none.",
            "I have regretted it ever since.", "Easy to beat.", "Not hopeless, but close.",
            "You will be sorry.", "Cheap it is, and still it is no bargain."],
}  # fmt: skip

CLOSED_FORMS = ("It is not true", "Other people wrote")  # these need something to follow


def statements(parts: Sequence[str], rng: random.Random) -> dict[str, str]:
    """Two good and two bad statements about different parts of one thing."""
    chosen = rng.sample(parts, 4)
    found = {}
    for name, part in zip(("good", "good2", "bad", "bad2"), chosen, strict=True):
        subject, *said = part.split("|")
        half = said[: len(said) // 2] if name.startswith("good") else said[len(said) // 2 :]
        found[name] = f"{subject} {rng.choice(half)}"
        found[name.capitalize()] = capital(found[name])
    return found


def capital(text: str) -> str:
    """With a capital at the start and nothing else changed."""
    return text[0].upper() + text[1:]


def write_review(good: bool, domain: dict[str, list[str]], rng: random.Random) -> str:
    """One review of one to five sentences."""
    name = rng.choice(domain["names"])
    form = rng.choice(FORMS[good])
    sentences = [form.format(**statements(domain["parts"], rng))]
    if rng.random() < 0.3:
        opening = rng.choice(OPENINGS[good])
        sentences.insert(0, opening.format(name=name, Name=capital(name)))
    if rng.random() < 0.45:
        sentences.insert(rng.choice((0, 0, len(sentences))), rng.choice(domain["settings"]))
    if rng.random() < 0.4 or form.startswith(CLOSED_FORMS):
        sentences.append(rng.choice(CLOSINGS[good]))
    return " ".join(sentences)


def main() -> None:
    """Write the table to standard output."""
    rng = random.Random(SEED)
    seen: set[str] = set()
    rows: list[tuple[str, str, str]] = []
    while len(rows) < COUNT:
        good = len(rows) % 2 == 0
        about = rng.choice(list(DOMAINS))
        review = write_review(good, DOMAINS[about], rng)
        if review not in seen:
            seen.add(review)
            rows.append((review, "good" if good else "bad", about))
    rng.shuffle(rows)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("review", "sentiment", "about"))
    table.writerows(rows)


if __name__ == "__main__":
    main()
