"""Write the `support-triage` data set: customer-support tickets, each answered by one line of JSON.

    python make.py

rewrites `train.jsonl` (300 rows) and `test.jsonl` (60 rows) beside this file, byte for byte the same on
every run. A ticket is put together from whole sentences: an opening, one or two sentences that carry the
intent and name the product, one sentence that carries the urgency, perhaps an irrelevant remark, perhaps
a closing. The order varies and so does the style (plain, contracted, lower case, mistyped, terse).

In the phrase pools below one line is one phrase, and the phrases after a line `--` are held out: they
occur in test tickets only. `{it}` stands for the product: the first one in a ticket becomes its name
("my kettle"), the later ones become "it". `{name}` and `{number}` are filled at random.
"""

import json
import random
import re
from pathlib import Path

SYSTEM = "Triage the support ticket. Answer with one line of JSON."
INTENTS = ("refund", "repair", "question", "delivery")
URGENCIES = ("low", "medium", "high")
ROUNDS = {"train": 5, "test": 1}  # how often each of the 5 x 4 x 3 = 60 combinations occurs
SHORTEST, LONGEST = 12, 45  # words in a ticket
SEED = 1618

# The label, then the other names the product goes by; no name belongs to two products.
PRODUCTS = {
    "router": ("wifi box", "wireless hub"),
    "printer": ("inkjet", "printing machine"),
    "camera": ("point-and-shoot", "photo camera"),
    "kettle": ("water boiler", "tea kettle"),
    "speaker": ("soundbar", "loudspeaker"),
}


def pool(text):
    """Split a block of phrases into the ones for both splits and the ones held out for the test."""
    both, _, held_out = text.partition("--\n")
    return {
        "seen": [line.strip() for line in both.splitlines() if line.strip()],
        "unseen": [line.strip() for line in held_out.splitlines() if line.strip()],
    }


# Every urgency phrase holds a word or two typical of its level (low: no rush, no hurry, can wait, your time;
# medium: days, week; high: urgent, today, immediately, right away, right now), so that a held-out phrase is
# new as a sentence, yet clear from what its level has in common.
URGENCY = {
    "low": pool("""
        No rush at all.
        There is no rush on this.
        Really no rush, I have tea and a good book.
        No rush, I am retired and patient.
        Nothing is on fire, so no rush.
        No rush from my side.
        There is no hurry on this.
        I am in no hurry whatsoever.
        No hurry, see to other people first.
        No hurry, please finish your lunch.
        Take your time with this one.
        Please take your time.
        Take all the time you like, no rush.
        No rush, answer whenever it suits you.
        No hurry, whenever you have a quiet moment.
        No rush, get to this whenever you like.
        This can wait until you are less busy.
        This can wait.
        I can happily wait.
        This can wait until things calm down at your end.
        This can easily wait for ages.
        Low priority, take your time.
        Low priority, this can wait.
        Glaciers are faster than me, so no hurry.
        --
        I am not in any rush, honestly.
        There is absolutely no hurry from my side.
        Please take as much time as you like, no rush.
        No hurry, whenever you get round to this.
        This can wait a good long while.
        No hurry, I am a patient soul.
        This is low priority and can wait.
        There is no rush, reply whenever you are bored.
    """),
    "medium": pool("""
        Some time this week would be good.
        I would like this sorted this week.
        Please do not forget me this week.
        Could this be handled this week?
        Later this week would be ideal.
        I would be glad of an answer this week.
        By the end of the week, please.
        The end of the week would suit me well.
        Please get back to me in the next few days.
        Within a few days would be great.
        I can manage for a few days, but not longer.
        We can cope for a few days.
        A few days is fine, but not more.
        Kindly answer within a few days.
        Please slot this in over the next few days.
        Within the week, please.
        Please do not leave this longer than a week.
        My patience will last about a week.
        Having this resolved in a week would help.
        I have guests next week and would like this settled by then.
        Next week is my deadline.
        A reply by next week would be good.
        The school fair is next week, so please be done by then.
        Two or three days would be fine.
        Within five working days, please.
        Within three or four days, please.
        Medium priority, say within the week.
        --
        Any day this week works for me.
        Please see to this before the week is out.
        An answer within four or five days would be good.
        I can hold out for a few days, not longer.
        My book club meets next week and this should be done by then.
        Please try to resolve this by the end of the week.
        Could I hear from you within a week?
        A few days from now would be a fair target.
    """),
    "high": pool("""
        This is urgent!
        Extremely urgent!
        This is really urgent, please help.
        I cannot stress enough how urgent this is.
        Urgent, please drop everything!
        I need this sorted today, this is urgent.
        This must be solved today.
        I need this today or my boss will explode.
        My business stands still, so please act today.
        I must have an answer today.
        I need help immediately.
        Please act immediately, this is urgent.
        Urgent, we are in real trouble and need help today!
        Please answer right away.
        Right away, please, this is urgent!
        I need someone on this right now.
        We need your help right now.
        Right now, please, this is urgent!
        I need an answer immediately.
        This is an urgent emergency.
        This is an emergency, I need help right now!
        Please call me back today, this is urgent.
        My exam starts in an hour, so this is urgent.
        I fly in three hours, so I need help right now.
        My wedding is tomorrow, so please act right away.
        Our play opens tonight, so this is urgent.
        Guests arrive tonight and I need help right now.
        --
        I need this dealt with immediately, please.
        Very urgent, please help today.
        Please respond right away, this is an emergency.
        This is urgent and has to be done today.
        My boat leaves at noon, so I need help right away.
        Urgent, please handle this first!
        An answer is needed right now, please!
        This is terribly urgent, I need you today.
    """),
}

REFUND_REQUEST = pool("""
    I would like a refund for {it}.
    Please give me my money back for {it}.
    I want to return {it} and get my money back.
    Can I send {it} back for a full refund?
    Kindly refund what I paid for {it}.
    Please put the money for {it} back on my card.
    I am returning {it} and expect a refund.
    I have changed my mind about {it} and would like a refund.
    I am not keeping {it}, so please refund me.
    Please reverse the charge for {it} and refund me.
    You can have {it} back, I just want my money back.
    I paid for {it} and I want that money back.
    Please cancel the sale of {it} and pay me back.
    A refund for {it}, please.
    I wish to claim my money back on {it}.
    Please refund the price of {it} to my account.
    I am asking for a full refund on {it}.
    {it} is going back in its box and I want a refund.
    Please refund me the cost of {it}.
    Let me hand {it} back and have my cash returned.
    I regret buying {it} and request a refund.
    Could you reimburse me for {it}?
    I would like to use the money-back guarantee on {it}.
    Please let me return {it} and refund the full price.
    I bought {it} by mistake and would like my cash back.
    Please take {it} back and return my money.
    I want to undo my purchase of {it} and be paid back.
    I want every penny back that I spent on {it}.
    Please pay the money for {it} back into my bank account.
    --
    I am requesting a refund for {it}.
    I would be grateful if you paid me back for {it}.
    Please issue a refund on {it}.
    I am sending {it} back and would like the full amount refunded.
    I would rather have the money for {it} back in my pocket.
    Please refund {it} to my card.
    I want my cash back and will return {it}.
    Can you return the money I spent on {it}?
""")

REFUND_REASON = {
    "router": pool("""
        {it} blinks like a tiny disco and I hate that.
        {it} is far too big for our shelf.
        {it} barely reaches past our thick stone walls.
        {it} looks like an upturned spider.
        My flat came with free wifi, so {it} just gathers dust.
        {it} is a different colour from the one in the advert.
        --
        {it} has so many antennas that it frightens my niece.
        {it} is much slower than your advert claimed.
    """),
    "printer": pool("""
        {it} drinks ink like a thirsty camel.
        {it} is louder than a brass band.
        {it} only likes paper that costs a fortune.
        {it} does not fit under my desk.
        My office gave me one just like {it}.
        {it} smells of warm plastic and I cannot stand that.
        --
        {it} takes up half of my tiny study.
        {it} is slower than a monk with a quill.
    """),
    "camera": pool("""
        {it} makes everybody look faintly orange.
        {it} is too fiddly for my big thumbs.
        {it} weighs as much as a brick.
        My phone takes nicer pictures than {it}.
        {it} has no flash, although the advert promised one.
        {it} is bright pink and I had chosen black.
        --
        {it} is heavier than my lunch.
        {it} has more menus than a restaurant.
    """),
    "kettle": pool("""
        {it} sings a jingle that nobody here can bear.
        {it} holds barely one cup.
        {it} makes the water taste of coins.
        {it} is slower to boil than my old pan.
        {it} clashes horribly with our green kitchen.
        My aunt gave me one exactly like {it}.
        --
        {it} roars like a jet engine.
        {it} is too heavy for my wrists when full.
    """),
    "speaker": pool("""
        {it} makes every song sound like soup.
        {it} is too quiet for my dance class.
        {it} has far less bass than the advert promised.
        {it} makes Bach sound like a bus.
        {it} is the size of a walnut.
        My neighbours hate {it} with a passion.
        --
        {it} sounds like a trombone in a bucket.
        {it} is far bigger than I imagined.
    """),
}

REPAIR_REQUEST = pool("""
    Can someone fix {it}?
    Please repair {it}.
    I would like {it} repaired under warranty.
    Can I book {it} in for a repair?
    {it} is broken and needs mending.
    Do you have a technician who could mend {it}?
    I want {it} mended, not replaced.
    Please send someone to fix {it}.
    I would like to bring {it} to your workshop.
    {it} needs a spare part and a skilled hand.
    Could your workshop bring {it} back to life?
    Please arrange a repair for {it}.
    {it} is faulty, so please fix the fault.
    I hope your engineers can get {it} working again.
    {it} has stopped working properly and I want it fixed.
    Could you patch up {it} for me?
    {it} has given up the ghost, can you revive it?
    Please make {it} work again.
    I need a repair slot for {it}.
    {it} is kaput and needs your repair team.
    I tried to mend {it} with tape and failed, so over to you.
    Please fix {it}, I am very fond of it.
    Something inside {it} snapped and needs fixing.
    I would rather have {it} fixed than buy another.
    Please have a technician look inside {it}.
    {it} is defective, so please put it right.
    My warranty should cover mending {it}.
    {it} needs mending by somebody who knows how.
    Your repair desk should take a look at {it}.
    Kindly nurse {it} back to health in your workshop.
    --
    Would you be able to repair {it}?
    {it} no longer works properly and I want it mended.
    I would like a technician to fix {it}.
    Please get {it} up and running again.
    {it} is damaged and should be repaired.
    Could you arrange for {it} to be fixed?
    I would like to book a repair for {it}.
    {it} has broken down, please mend it.
""")

REPAIR_SYMPTOM = {
    "router": pool("""
        {it} drops the connection whenever the microwave hums.
        All the lights on {it} have gone dark.
        {it} restarts itself for no reason.
        {it} makes a sizzling sound and loses the signal.
        One antenna on {it} has snapped off.
        The power socket on {it} is loose.
        --
        {it} gets hot enough to fry an egg.
        The signal from {it} dies whenever it rains.
    """),
    "printer": pool("""
        {it} chews every page into confetti.
        {it} prints nothing but stripes.
        The paper tray on {it} has cracked.
        {it} reports a paper jam although there is none.
        {it} leaks blue ink on the carpet.
        {it} groans and then goes dead.
        --
        {it} leaves a black smear down every page.
        The lid of {it} came off its hinge.
    """),
    "camera": pool("""
        The shutter on {it} is stuck.
        {it} shuts itself down after each picture.
        The lens of {it} is cracked.
        The zoom on {it} grinds like a coffee mill.
        My toddler dropped {it} in the bath.
        The screen on {it} shows only purple fog.
        --
        The battery door on {it} will not close.
        {it} refuses to focus on anything.
    """),
    "kettle": pool("""
        {it} leaks all over the worktop.
        {it} blows the fuse each time I switch it on.
        The lid on {it} refuses to close.
        {it} hums but never gets warm.
        The switch on {it} has snapped off.
        {it} never stops boiling.
        --
        The handle of {it} has come loose.
        {it} stays stone cold, whatever I press.
    """),
    "speaker": pool("""
        {it} crackles like a bonfire.
        The left side of {it} is silent.
        The volume knob on {it} came off in my hand.
        {it} cuts out in the middle of every song.
        {it} will not charge any more.
        My dog bit through the grille of {it}.
        --
        {it} buzzes like a trapped wasp.
        The play button on {it} is jammed.
    """),
}

QUESTION_FRAME = pool("""
    How do I {task}?
    Could you tell me how to {task}?
    I was wondering how to {task}.
    What is the right way to {task}?
    Is there a clever way to {task}?
    I cannot find the page in the manual on how to {task}.
    Would you walk me through how to {task}?
    My question is simple: how does one {task}?
    Nobody here knows how to {task}, can you explain?
    Please point me to instructions on how to {task}.
    Can you remind me how to {task}?
    The booklet does not say how to {task}.
    Teach me how to {task}, please.
    I would love to know how to {task}.
    What are the steps to {task}?
    Is it possible to {task}?
    I am trying to learn how to {task}, any tips?
    Do I need anything special to {task}?
    Please explain how I {task}.
    I am curious how to {task}.
    Which chapter of the manual shows how to {task}?
    I would like some advice on how to {task}.
    What is the easiest way to {task}?
    Where can I read how to {task}?
    I am puzzled about how to {task}.
    May I ask how to {task}?
    --
    Can you explain how to {task}?
    I have a question about how to {task}.
    What should I do to {task}?
    I would like to know how to {task}.
    Could you show me how to {task}?
    Is there a guide on how to {task}?
""")

QUESTION_TASK = {
    "router": pool("""
        change the name of the network on {it}
        set up a guest password on {it}
        switch off the lights on {it}
        hang {it} on a wall
        update the software of {it}
        limit the gaming hours of my son on {it}
        find the serial number of {it}
        --
        reset the password of {it}
        hide {it} in a cupboard without losing signal
    """),
    "printer": pool("""
        print on both sides with {it}
        load envelopes into {it}
        clean the nozzles of {it}
        set {it} to black and white
        scan a drawing with {it}
        print from my phone with {it}
        print sticky labels with {it}
        --
        change the ink in {it}
        print greeting cards on {it}
    """),
    "camera": pool("""
        photograph the moon with {it}
        set the date on {it}
        switch off the flash on {it}
        copy pictures from {it} to my tablet
        use the self-timer on {it}
        clean the lens of {it}
        make a slow-motion film with {it}
        --
        mute the shutter sound of {it}
        charge {it} from a car socket
    """),
    "kettle": pool("""
        descale {it} without vinegar
        silence the beep on {it}
        set {it} to eighty degrees for green tea
        clean the filter in {it}
        polish the outside of {it}
        boil just one cup with {it}
        use the keep-warm mode on {it}
        --
        lock the lid of {it}
        change the boiling temperature of {it}
    """),
    "speaker": pool("""
        pair {it} with my phone
        turn up the bass on {it}
        make {it} play louder
        give {it} a new name
        switch off the voice prompts on {it}
        use {it} in the garden
        see how much battery {it} has left
        --
        connect {it} to the television
        make {it} remember my favourite songs
    """),
}

QUESTION_PLAIN = {
    "router": pool("""
        Does {it} work with a fibre line?
        How many devices can {it} handle?
        What does the green light on {it} mean?
        --
        Can {it} cope with two floors?
        Which cable goes into the yellow port of {it}?
    """),
    "printer": pool("""
        Which ink does {it} take?
        Can {it} handle thick card?
        Does {it} work with Linux?
        --
        How many pages does one cartridge last in {it}?
        Can {it} print on tracing paper?
    """),
    "camera": pool("""
        Is {it} waterproof?
        Which memory card fits {it}?
        Does {it} film in the dark?
        --
        How many pictures can {it} store?
        Can {it} survive a snowball fight?
    """),
    "kettle": pool("""
        Is {it} safe for boiling milk?
        How much water does {it} hold?
        Does {it} switch off by itself?
        --
        Can {it} run on a caravan socket?
        What is the inside of {it} made of?
    """),
    "speaker": pool("""
        Can {it} get wet?
        How long does the battery of {it} last?
        Which phones work with {it}?
        --
        Does {it} have a microphone?
        How far from my phone can {it} be?
    """),
}

QUESTION_LEAD = pool("""
    I have a little question.
    A small thing puzzles me.
    I am a beginner with gadgets.
    The manual is in Finnish and I am not.
    I have read the booklet twice.
    Sorry if this is a silly question.
    My sister and I have a bet about this.
    Your help page was over my head.
    Gadgets and I rarely get along.
    I am simply curious.
    The instructions lost me at step two.
    One thing is not clear to me.
    --
    I have something to ask.
    I could not find this in the manual.
    My father asked me and I did not know.
    Forgive a beginner for asking.
""")

DELIVERY_LATE = pool("""
    {it} has not arrived yet.
    {it} still has not turned up.
    I am still waiting for {it} to be delivered.
    The parcel with {it} seems to be lost.
    The tracking page says {it} is in another country.
    The courier left {it} with a complete stranger.
    {it} was due on Monday and never came.
    The van drove right past with {it} on board.
    The tracking number for {it} does not work.
    My confirmation came, but {it} did not.
    {it} has been stuck at the depot since Tuesday.
    The driver says he delivered {it}, but my porch is empty.
    I have no shipping date for {it}.
    {it} went to my old address.
    The box came, but {it} was not inside.
    Where is the parcel with {it}?
    The postman knows nothing about {it}.
    Has {it} left your warehouse?
    I paid for shipping of {it} and my doorstep is still bare.
    {it} is going in circles according to the tracking map.
    The shipment with {it} has vanished.
    {it} was sent to number 12 and we live at number 21.
    Your email says {it} was delivered, which is news to me.
    --
    {it} should be here already, but there is no sign of a parcel.
    The delivery of {it} is late.
    The courier cannot find my house and took {it} back to the depot.
    Has {it} been shipped?
    My parcel with {it} never showed up.
    The tracking has not moved since {it} left the warehouse.
    I am expecting {it}, but no van has come.
""")

DELIVERY_LATE_MORE = pool("""
    Where is the van?
    Could you check the tracking?
    Please find out where the courier went.
    Please ask the courier.
    I keep peering out of the window.
    The doorbell stays silent.
    My hallway is empty.
    Please find out which depot has the parcel.
    The carrier will not speak to me.
    I have asked all the neighbours.
    Can you give me a new delivery date?
    The tracking map shows a field of cows.
    --
    What does your shipping team say?
    Please track the parcel for me.
    I have looked behind every flower pot.
    Could you chase the courier?
""")

DELIVERY_CHANGE = pool("""
    Please change the delivery address for {it}.
    Please ship {it} to my office instead of my home.
    Could the courier bring {it} after six o'clock?
    Please tell the driver to leave {it} with the baker downstairs.
    The courier missed me, so please send {it} out again.
    Please have the courier leave {it} in the shed.
    I need a delivery slot for {it}.
    --
    Please deliver {it} to my neighbour instead.
    Can you arrange a different delivery day for {it}?
""")

DELIVERY_CHANGE_MORE = pool("""
    The courier needs our gate code, which is 4471.
    Your delivery form would not let me change anything.
    The van may park by the fountain.
    Our street is closed to lorries.
    The driver knows our street.
    --
    The courier should use the back gate.
""")

REMARK = pool("""
    I am writing from a narrowboat.
    My parrot is dictating half of this.
    My order number is {number}.
    It is raining sideways here.
    I have been a customer for nine years.
    Your chat window logged me out twice.
    Greetings from Lisbon.
    My cat Biscuit is sitting on the keyboard.
    I run a small bakery in Ghent.
    I teach the tuba for a living.
    I live above a fish shop.
    Your hold music is rather good.
    My daughter Ines is typing for me.
    I share a house with four drummers.
    Ours is the blue door by the canal.
    My account is under the name {name}.
    I am a lighthouse keeper by trade.
    Your website is lovely, by the way.
    We are a family of seven.
    I own two goats and one good chair.
    My Dutch is better than my English.
    My husband thinks I worry too much.
    The dog says hello.
    I am sitting in the garden shed.
    Order {number}.
    My customer number is {number}.
    --
    My budgie is called Admiral.
    I work nights at a museum.
    The reference is {number}.
    We live up four flights of stairs.
    I collect old maps.
    My glasses are at the optician.
    A marching band is passing my window.
""")

OPENING = pool("""
    Hello!
    Hi there!
    Good morning.
    Dear Pebblewick team,
    Hi,
    Hello Pebblewick,
    Good evening,
    Hey folks,
    Dear support,
    Hi, {name} here.
    Hello, this is {name}.
    Howdy!
    Ahoy!
    To whom it may concern:
    --
    Good day,
    Dear all,
    Hi team!
    Hello out there!
    Hi Pebblewick,
""")

CLOSING = pool("""
    Thanks!
    Thank you, {name}
    Best, {name}
    Cheers
    Kind regards, {name}
    Many thanks.
    Thanks in advance!
    Yours, {name}
    Warm wishes from {name}
    Cheers, {name}
    Take care, {name}
    Thank you!
    --
    Much obliged, {name}
    Ta!
    Bye, {name}
    With thanks, {name}
    Regards, {name}
""")

NAMES = (
    "Amara",
    "Bruno",
    "Chiara",
    "Dmitri",
    "Elif",
    "Farid",
    "Greta",
    "Hiro",
    "Imani",
    "Jonas",
    "Keiko",
    "Leila",
    "Mateo",
    "Nadia",
    "Oskar",
    "Priya",
    "Quentin",
    "Rosa",
    "Stellan",
    "Tomasz",
    "Ulla",
    "Viktor",
    "Wanda",
    "Ximena",
    "Yusuf",
    "Zofia",
    "Bea",
    "Callum",
    "Dagny",
    "Enzo",
    "Freya",
    "Gus",
    "Halima",
    "Ivo",
)

CONTRACTIONS = (
    ("I would", "I'd"),
    ("I am", "I'm"),
    ("cannot", "can't"),
    ("do not", "don't"),
    ("Do not", "Don't"),
    ("does not", "doesn't"),
    ("will not", "won't"),
    ("has not", "hasn't"),
    ("did not", "didn't"),
    ("is not", "isn't"),
    ("There is", "There's"),
    ("What is", "What's"),
)

TYPOS = {
    "please": "plese",
    "the": "teh",
    "would": "woud",
    "with": "wiht",
    "and": "adn",
    "from": "fromm",
    "have": "hvae",
    "this": "tihs",
    "your": "yuor",
    "like": "liek",
    "could": "coudl",
    "tomorrow": "tommorow",
    "whenever": "whenver",
    "before": "befor",
    "delivered": "deliverd",
    "courier": "courrier",
    "working": "workign",
    "thanks": "thnaks",
    "hello": "helo",
    "within": "withing",
    "answer": "anwser",
    "again": "agian",
    "back": "bakc",
    "money": "mony",
    "manual": "manuel",
    "about": "abuot",
    "need": "ned",
    "how": "hwo",
}


class Decks:
    """Draws from lists so that every item comes up once before any comes up again."""

    def __init__(self, rng):
        self.rng = rng
        self.decks = {}

    def draw(self, key, items):
        """Take the next item of the deck called `key`, shuffling a fresh one when it is used up."""
        deck = self.decks.setdefault(key, [])
        if not deck:
            deck.extend(items)
            self.rng.shuffle(deck)
        return deck.pop()


class Writer:
    """Writes the tickets of one split; `split` decides whether held-out phrases may be used."""

    def __init__(self, split):
        self.split = split
        self.rng = random.Random(f"{SEED}-{split}")
        self.decks = Decks(self.rng)

    def phrase(self, key, phrases, unseen=None):
        """A phrase of a pool; `unseen` asks for a held-out one or not, None leaves it to chance."""
        if self.split == "train":
            unseen = False
        elif unseen is None:
            unseen = self.rng.random() < 0.4
        kind = "unseen" if unseen else "seen"
        return self.decks.draw((key, kind), phrases[kind])

    def body(self, product, intent, unseen):
        """The one or two sentences that carry the intent, in order."""
        if intent == "question":
            return self.question(product, unseen)
        if intent == "delivery":
            return self.delivery(unseen)
        request, reasons = {
            "refund": (REFUND_REQUEST, REFUND_REASON),
            "repair": (REPAIR_REQUEST, REPAIR_SYMPTOM),
        }[intent]
        pair = [self.phrase((intent, "request"), request, unseen)]
        if self.rng.random() < 0.8:
            pair.insert(self.rng.randrange(2), self.phrase((intent, product), reasons[product]))
        return pair

    def question(self, product, unseen):
        """A question about using the product, perhaps with a sentence that leads up to it."""
        if self.rng.random() < 0.7:
            frame = self.phrase("frame", QUESTION_FRAME, unseen)
            asked = frame.replace("{task}", self.phrase(("task", product), QUESTION_TASK[product]))
        else:
            asked = self.phrase(("plain", product), QUESTION_PLAIN[product], unseen)
        return [self.phrase("lead", QUESTION_LEAD), asked] if self.rng.random() < 0.6 else [asked]

    def delivery(self, unseen):
        """A parcel that went astray, or a wish about how it should come, perhaps with a bit more."""
        if self.rng.random() < 0.75:
            key, status, more = "late", DELIVERY_LATE, DELIVERY_LATE_MORE
        else:
            key, status, more = "change", DELIVERY_CHANGE, DELIVERY_CHANGE_MORE
        sentences = [self.phrase(key, status, unseen)]
        if self.rng.random() < 0.65:
            sentences.append(self.phrase((key, "more"), more))
        return sentences

    def naming(self, product, intent):
        """The words for the first mention of the product."""
        noun = product
        if self.rng.random() < 0.15:
            noun = self.decks.draw(("synonym", product), PRODUCTS[product])
        adjective = self.rng.choice(["", "", "", "", "new ", "Pebblewick "])
        if intent == "delivery" and self.rng.random() < 0.3:
            return f"the {adjective}{noun} I ordered"
        return self.rng.choice(["my", "my", "the"]) + f" {adjective}{noun}"

    def sentences(self, product, intent, urgency, style):
        """All sentences of a ticket in order, with the slots still in them."""
        unseen = self.decks.draw("unseen", [(True, False), (False, True), (True, True)])
        core = self.body(product, intent, unseen[0])
        place = self.rng.choice([0, 0, len(core), len(core), len(core), len(core) // 2])
        core.insert(place, self.phrase(urgency, URGENCY[urgency], unseen[1]))
        opening, closing, remark = (self.rng.random() < share for share in (0.6, 0.5, 0.25))
        if style == "terse":
            opening = closing = remark = False
        if remark or count_words(core) < SHORTEST:
            core.insert(self.rng.choice([0, len(core)]), self.phrase("remark", REMARK))
        if opening or count_words(core) < SHORTEST:
            core.insert(0, self.phrase("opening", OPENING))
        if closing or count_words(core) < SHORTEST:
            core.append(self.phrase("closing", CLOSING))
        return core

    def ticket(self, product, intent, urgency):
        """One ticket, finished."""
        style = self.decks.draw("style", ["plain"] * 4 + ["short"] * 3 + ["lower"] * 2 + ["typos", "terse"])
        text = join(self.sentences(product, intent, urgency, style))
        text = fill(text, self.naming(product, intent))
        text = text.replace("{name}", self.decks.draw("name", NAMES))
        text = text.replace("{number}", str(self.rng.randrange(10000, 99999)))
        if style in ("short", "lower") or (style == "typos" and self.rng.random() < 0.5):
            for long, short in CONTRACTIONS:
                text = re.sub(rf"\b{long}\b", short, text)
        if style == "typos":
            text = self.mistype(text)
        if style in ("lower", "terse"):
            text = text.removesuffix(".")
        return text.lower() if style == "lower" else text

    def mistype(self, text):
        """Misspell up to three words, never the product's name."""
        words = text.split(" ")
        places = [i for i, word in enumerate(words) if word.lower().strip(",.!?") in TYPOS]
        for i in self.rng.sample(places, min(3, len(places))):
            bare = words[i].strip(",.!?")
            wrong = TYPOS[bare.lower()]
            words[i] = words[i].replace(bare, wrong.capitalize() if bare[0].isupper() else wrong)
        return " ".join(words)


def count_words(sentences):
    """How many words a list of sentences has at the least (a product's name counts as one)."""
    return len(" ".join(sentences).split())


def fill(text, naming):
    """Put the product's name where it is first mentioned and "it" where it comes up again."""
    text = text.replace("{it}", naming, 1).replace("{it}", "it")
    return re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def join(sentences):
    """Join sentences with blanks; after a comma or colon the next one goes on in lower case."""
    text = sentences[0]
    for sentence in sentences[1:]:
        first = sentence.split()[0]
        if text.endswith((",", ":")) and first not in ("I", "ASAP,"):
            sentence = sentence[0].lower() + sentence[1:]
        text += " " + sentence
    return text


def normalise(text):
    """A ticket for comparison: case and blanks do not count."""
    return " ".join(text.casefold().split())


def row(ticket, product, intent, urgency):
    """One row in the chat format."""
    answer = json.dumps({"product": product, "intent": intent, "urgency": urgency})
    turns = (("system", SYSTEM), ("user", ticket), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def generate():
    """Both splits as lists of rows; each round of 60 rows holds every combination once."""
    combinations = [(p, i, u) for p in PRODUCTS for i in INTENTS for u in URGENCIES]
    used, splits = set(), {}
    for split, rounds in ROUNDS.items():
        writer, rows = Writer(split), []
        for _ in range(rounds):
            writer.rng.shuffle(combinations)
            for labels in combinations:
                ticket = writer.ticket(*labels)
                while normalise(ticket) in used or not SHORTEST <= len(ticket.split()) <= LONGEST:
                    ticket = writer.ticket(*labels)
                used.add(normalise(ticket))
                rows.append(row(ticket, *labels))
        splits[split] = rows
    return splits


def render(rows):
    """The text of a split's file: one JSON object a line."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in rows)


def main():
    """Write both files beside this one."""
    for split, rows in generate().items():
        Path(__file__).with_name(f"{split}.jsonl").write_bytes(render(rows).encode("utf-8"))


if __name__ == "__main__":
    main()
