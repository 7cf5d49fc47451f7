"""The closed classes of English: the words that carry grammar rather than content.

None of these lists was read off a data set: they are the pronouns, prepositions, auxiliaries and so on of a grammar,
the verbs and nouns with next to no meaning of their own, and the converses and reversals that any dictionary lists.
"""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """Read a set of words as they stand in a line of text."""
    return frozenset(text.split())


# "in" and its forms turn adjectives round, "de" verbs; the others turn round what they are put before.
NEGATIVE_PREFIXES = ("anti", "dis", "mis", "non", "un", "in", "im", "ir", "il", "de")

DETERMINERS = word_set("a an the this that these those some any each every all both either such")
FIRST_PERSON = word_set("i me my mine myself we us our ours ourselves")
SECOND_PERSON = word_set("you your yours yourself yourselves u ur")
THIRD_PERSON = word_set("he him his himself she her hers herself they them their theirs themselves")
SUBJECTS = {
    **dict.fromkeys(("i", "we"), "first"),
    **dict.fromkeys(("you", "u"), "second"),
    **dict.fromkeys(("he",), "he"),
    **dict.fromkeys(("she",), "she"),
    **dict.fromkeys(("they",), "they"),
}
OWNERS = {
    **dict.fromkeys(("my", "our", "mine", "ours"), "first"),
    **dict.fromkeys(("your", "yours", "ur"), "second"),
    **dict.fromkeys(("his", "her", "their", "hers", "theirs"), "third"),
}
# Behind them a "no" is what somebody says, not a negator.
SAYING = word_set("say says said saying answer reply tell told vote voted hear yes or")
# Behind them stands what is said, clicked or quoted, whatever it means elsewhere; by base form.
MENTIONING = word_set(
    "say answer reply respond tell vote hear word write type enter translate press click tap hit choose pick select "
    "button option key"
)
YES = word_set("yes yeah yep yup aye")
NO = word_set("no nope nah nay")
# What is said on its own, or says little elsewhere; each line says one thing.
REMARKS = {
    word: at
    for at, words in enumerate(
        (
            *(YES, NO),
            *map(
                word_set, ("hi hello hey", "bye goodbye", "ok okay", "thanks thank", "maybe perhaps sometimes", "none")
            ),
            *map(word_set, ("always", "never", "now", "later", "here", "there", "next", "back", "and", "or", "like")),
            *map(word_set, ("even", "odd")),
        )
    )
    for word in words
}
OTHER_PRONOUNS = word_set(
    "it its itself one ones oneself someone somebody anyone anybody everyone everybody something anything everything"
)
PRONOUNS = FIRST_PERSON | SECOND_PERSON | THIRD_PERSON | OTHER_PRONOUNS
BE = word_set("be am is are was were been being")
AUXILIARIES = BE | word_set(
    "do does did doing done have has had having can could will would shall should may might must ought cannot"
)
QUESTION_WORDS = word_set("what which who whom whose when where why how whether")
CONJUNCTIONS = word_set("and or but if then than because so as while though although unless")
PREPOSITIONS = word_set(
    "of in on at by for with without to from into onto out off up down over under above below about against between "
    "among through during before after since until till within across along around behind beside besides beyond "
    "despite except inside outside near per toward towards upon via versus vs like"
)
NEGATORS = word_set(
    "not no never cannot none nobody nothing neither nor nowhere without non hardly barely scarcely unable"
)
# They lead to the place of what is asked; "by Paris" and "of Paris" belong to the thing.
TO_A_PLACE = word_set("in from to for near within across throughout")
FILLERS = word_set(
    "please pls plz kindly just really very quite so too also even ever still yet actually literally basically simply "
    "truly honestly exactly only there here hi hello hey thanks thank ok okay well maybe perhaps else etc oh "
    "again s t re ve ll d m much many lot lots"
)
STOP = (
    DETERMINERS | PRONOUNS | AUXILIARIES | QUESTION_WORDS | CONJUNCTIONS | PREPOSITIONS | NEGATORS | FILLERS
) | word_set("more less most least fewer")

LIGHT = word_set(
    # Verbs that lend their place to another word, and those of asking and telling.
    "get do make have go take give put let be become come keep use try need want wish like would know tell say ask "
    "show explain describe help find look see think believe seem start begin mean happen understand learn "
    "share suggest "
    "recommend list provide discuss define feel work consider "
    # Nouns that only hold a place.
    "way thing stuff people person someone one reason step process procedure method kind sort type example "
    "question answer idea tip advice suggestion information info detail fact place time case matter issue problem "
    "difference option bit "
    # Adjectives that praise, grade or point.
    "good great nice fine bad easy simple quick fast possible able right correct proper actual real main various "
    "different own same other another important useful effective efficient much many several "
    "sure"
)

# "higher" and "lower" are antonyms of the dictionary; these are not.
UP = word_set("more most")
DOWN = word_set("less least fewer")

# Where one of a pair is a negator ("with", "without"), that one counts already.
OPPOSITE_PARTICLES = (
    ("before", "after"),
    ("before", "since"),
    ("within", "after"),
    ("during", "after"),
    ("during", "before"),
    ("in", "after"),
    ("above", "below"),
    ("over", "under"),
    ("on", "off"),
    ("in", "out"),
    ("up", "down"),
    ("inside", "outside"),
    ("for", "against"),
    ("to", "from"),
    ("into", "out"),
)
# Words that only differ in the side from which one looks at an act, or that undo one another.
REVERSALS = (
    "buy sell",
    "lend borrow",
    "give take",
    "give receive",
    "send receive",
    "teach learn",
    "push pull",
    "arrive depart",
    "arrive leave",
    "upload download",
    "import export",
    "gain lose",
    "win lose",
    "hot cool",
    "warm cool",
    "tighten loosen",
    "benefit harm",
    "benefit drawback",
    "pro con",
    "entrance exit",
    "cause cure",
    "earn spend",
    "don doff",
    "add subtract",
    "close reopen",
    "cancel reinstate",
    "delete restore",
    "delete recover",
    "beat lose",
    "defeat lose",
    "strengthen weaken",
    "accelerate decelerate",
    "pass fail",
    "rise fall",
    "rise drop",
    "deposit withdraw",
    "upgrade downgrade",
    "hire fire",
    "approve deny",
    "approve reject",
    "approve decline",
    "accept decline",
    "allow block",
    "allow deny",
    "allow forbid",
    "allow prevent",
    "grant revoke",
    "grant deny",
    "mount unmount",
    "encode decode",
    "max min",
    "encrypt decrypt",
    "compress decompress",
    "succeed fail",
    "join leave",
    "add remove",
    "enter leave",
    "enter exit",
    "show hide",
    "attach detach",
    "connect disconnect",
    "subscribe unsubscribe",
    "credit debit",
    "follow unfollow",
    "read write",
    "keep discard",
    "retain discard",
    "keep remove",
    "keep delete",
    "start stop",
    "start finish",
    "begin finish",
    "remember forget",
    "cause prevent",
    "save spend",
    "activate cancel",
    "activate deactivate",
    "resume pause",
    "push pop",
    "cheap expensive",
    "employer employee",
    "landlord tenant",
    "asset liability",
    "buyer seller",
    "sender recipient",
    "lender borrower",
    "inbound outbound",
    "incoming outgoing",
    "ascending descending",
    "prior subsequent",
    "former latter",
    "many few",
    "much little",
    "all some",
    "have lack",
)
# What any thesaurus puts together and WordNet keeps apart, and everyday short forms. Each line stands for itself.
SAME_MEANING = (
    "deliver ship dispatch",
    "company firm",
    "fee charge",
    "mobile cellphone phone telephone",
    "usa america american",
    "uk britain british",
    "mac macos",
    "app application",
    "booking reservation",
    "book reserve",
    "solve resolve fix",
    "get receive obtain",
    "website webpage site",
    "photo picture image pic",
    "register enroll enrol",
    "employee worker",
    "laptop notebook",
    "folder directory",
    "setting preference",
    "verify confirm validate",
    "change modify edit update adjust alter",
    "colleague coworker teammate workmate",
    "compare differ",
    "abroad overseas",
    "dispute contest challenge",
    "error bug",
    "lift elevator",
    "flat apartment",
    "petrol gasoline",
    "gas gasoline",
    "college university",
    "exam test",
    "illness disease sickness",
    "medicine medication",
    "choose select pick",
    "view see",
    "item product",
    "basket cart",
    "voucher coupon",
    "lost missing",
    "cheap inexpensive affordable",
    "expensive costly pricey",
    "hate dislike",
    "avoid prevent",
    "trip journey",
    "boss manager",
    "garbage trash rubbish",
    "pram stroller buggy",
    "quick fast rapid",
    "quickly fast rapidly",
    "smart clever intelligent",
    "js javascript",
    "ts typescript",
    "db database",
    "repo repository",
    "doc documentation",
    "config configuration",
    "env environment",
    "auth authentication",
    "admin administrator",
    "dict dictionary",
    "param parameter argument",
    "int integer",
    "tech technical",
    "max maximum",
    "min minimum",
    "tv television",
    "ad advert advertisement",
    "acct account",
    "jpg jpeg",
    "approx approximately",
    "temp temperature",
    "dept department",
    "govt government",
    "appt appointment",
    "msg message",
    "pwd password",
    "qty quantity",
    "avg average",
    "fridge refrigerator",
    "tbsp tablespoon",
    "tsp teaspoon",
    "addr address",
    "num number",
    "veg vegetable",
    "problem issue trouble",
    "idiom expression phrase saying",
    "kid child",
    "human person people",
    "normal regular usual typical ordinary",
    "job position role post",
    "salary pay wage",
    "parcel package",
    "shop store",
    "customer client",
    "holiday vacation",
    "important crucial vital essential",
    "popular famous",
    "ill sick unwell",
    "thin slim skinny",
    "strange weird odd",
    "funny hilarious amusing",
    "cute sweet adorable",
    "cool awesome amazing great",
    "risky dangerous hazardous",
    "needed required necessary",
    "improve enhance boost",
    "shrink decrease reduce lower",
    "tiny microscopic minuscule",
    "speed pace",
    "error mistake",
    "competitive affordable cheap",
    "bill invoice",
    "hack trick tip",
    "portable mobile",
    "repair service",
    "agency firm",
)

# Verbs that mean the same only beside a particle or an object: "log out", "sign out".
SAME_USE = ({"log", "sign"},)

SYMMETRIC = word_set(
    "marry married date dating engaged divorced related connected linked close similar equal identical same different "
    "friend friends sibling brother brothers sister sisters cousin cousins twin twins neighbor neighbour partner "
    "partners colleague compatible compare compared comparison difference differences distinguish between versus vs "
    "and or "
    "near adjacent next meet met wed mix combine combined together match alike relative tie tied acquainted roommates "
    "rival rivals acquaintance acquaintances ally allies roommate teammate coworker opponent peer "
    "share apart far distance distant classmates spouse couple correlate correlated correlation"
)

# Grouped by what is left afterwards; verbs of one group stand for each other.
DESTRUCTIVE = {
    **dict.fromkeys(("delete", "erase", "remove", "wipe", "purge", "destroy", "eliminate", "discard"), "delete"),
    **dict.fromkeys(("close",), "close"),
    **dict.fromkeys(
        ("cancel", "annul", "revoke", "rescind", "unsubscribe", "terminate", "end", "discontinue"), "cancel"
    ),
    **dict.fromkeys(("drop", "truncate"), "drop"),
    **dict.fromkeys(("uninstall",), "uninstall"),
    **dict.fromkeys(("format", "overwrite"), "overwrite"),
    **dict.fromkeys(("kill", "abort"), "kill"),
    **dict.fromkeys(("reset", "reinstall"), "reset"),
}
UNDOING = word_set("undo undelete restore recover revert reverse rollback retrieve reopen reinstate reactivate")
TELLING = word_set(
    "tell explain describe show list give write compare define name help let know suggest recommend provide summarize "
    "summarise discuss say state outline identify find see understand learn teach advise inform clarify mention"
)
ASKING_NICELY = word_set("please pls plz kindly")
POLITE = ASKING_NICELY | word_set("hi hello hey thanks thank ok okay so well just")
