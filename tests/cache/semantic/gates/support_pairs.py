"""Questions as people put them to a bank, a shop, a service, a travel site, a teacher, a programmer.

Written by hand before the rules they are measured on were looked at again; none comes from a data set. `PARAPHRASES`
hold pairs that one answer serves, by trade; `MUST_MISS` pairs that it does not, by what differs. `asked | stored`, one
pair a line. `half` splits them: rules may be mended after a look at the errors of half 0, never of half 1.
"""

from __future__ import annotations

import hashlib

PARAPHRASES = {
    "bank": """
        How do I get a new debit card? | my debit card is worn out, how can I order another one
        Whats the way to raise my overdraft? | How can I increase my overdraft limit?
        Could you tell me when my salary will arrive | When does my wage get paid in?
        I can't log in to online banking | Unable to sign in to my internet banking
        How long until a cheque clears? | How many days does it take for a cheque to clear?
        Someone used my card without permission | There's a payment on my card I didn't make
        What do I need to open a joint account? | Which documents are required to open an account for two people?
        Where can I find my IBAN? | How do I look up my IBAN?
        Is there a charge for taking money out abroad? | Do you charge a fee for withdrawing cash in another country?
        I forgot my pin | I don't remember my PIN anymore
        How do I stop a standing order? | What's the process for cancelling a standing order?
        Please explain what APR means | what is the meaning of APR
        my mortgage payment is late, what happens | What are the consequences if I pay my mortgage late?
        Can I pay my credit card bill from another bank? | Is it possible to pay my credit card from a different bank?
        how do i chnage my adress | How can I change my address?
        How can I be told when money comes in? | How do I get notified about incoming payments?
        Why has my transfer been rejected? | Why was my transfer declined?
        How is interest on savings calculated? | How do you calculate savings interest?
        What's the most I can withdraw in a day? | What is my daily withdrawal limit?
        Can I open an account if I live overseas? | Can non-residents open an account with you?
        How do I add my partner to my account? | What's the way to put my spouse on my account?
        I'd like to know my credit score, where do I see it? | Where can I check my credit score?
        The cash machine swallowed my card | An ATM kept my card
        How are dividends taxed? | What tax do I pay on dividends?
    """,
    "shop": """
        Where's my parcel? | I would like to track my package
        I want to send back a jacket, how does it work? | How can I return a jacket?
        Can I still change the delivery address? | Is it possible to modify the shipping address after ordering?
        Can you ship my order to a different address? | Can I have my order shipped to another address?
        When will the shoes be back in stock? | When do you expect the shoes to be available again?
        The mug arrived broken | I received a damaged mug
        Do I have to pay customs? | Will I be charged customs duties?
        How much is shipping? | What are the delivery costs?
        Do you deliver on weekends? | Do you ship on weekends?
        My promo code doesn't work | The discount code isn't accepted
        How long do I have to return something? | What is the time limit for returns?
        Can I pay when the goods arrive? | Do you offer cash on delivery?
        What size should I take? | Which size do I need?
        Are gift cards refundable? | Can I get my money back for a gift card?
        I was billed twice | You charged me two times
        Is the warranty transferable? | Can the warranty be transferred?
        Do you price match? | Will you match a competitor's price?
        how to leave a review | How do I write a review of a product?
        I got the wrong item | You sent me the wrong product
        Is it possible to collect my order in store? | Can I pick up my order at the shop?
    """,
    "service": """
        How do I invite colleagues to my workspace? | What's the way to add teammates to my workspace?
        Where can I download my invoices? | How do I get a copy of my bills?
        I can't remember my password | forgot password
        How do I turn on two-step verification? | How can I enable two-factor authentication?
        Can I export my data to a spreadsheet? | How do I export everything to Excel?
        Is there a mobile app? | Do you have an app for phones?
        The dashboard won't load | My dashboard isn't loading
        How do I rotate an API key? | What are the steps for rotating an API key?
        What happens to my data when I cancel? | If I cancel, what happens with my data?
        Can I change the language of the interface? | How do I switch the interface language?
        Why do I keep getting logged out? | Why does it sign me out all the time?
        How many seats are in my plan? | What number of users does my plan include?
        Do you support single sign-on? | Is SSO supported?
        How do I merge two projects? | Is there a way to combine two projects?
        My webhook isn't firing | The webhook doesn't fire
        How can I reach a human? | I want to talk to a real person
        Could you help me set up email forwarding? | How do I configure email forwarding?
        Is my data encrypted? | Do you encrypt my data?
        Can an admin see my messages? | Are my messages visible to administrators?
    """,
    "travel": """
        Can I bring a stroller on the plane? | Is it allowed to take a pram on board?
        How early should I get to the airport? | What time do I have to be at the airport before my flight?
        My flight got cancelled, can I get my money back? | Am I entitled to a refund if the airline cancels my flight?
        What's the check-in time? | From when can I check in?
        Is breakfast included? | Does the price include breakfast?
        How do I change the name on my ticket? | I need to correct the name on my booking, how?
        Are dogs allowed in the rooms? | Can I bring my dog to the hotel?
        How much luggage can I take? | What is the baggage allowance?
        Is there a shuttle from the airport to the hotel? | Do you offer airport transfers to the hotel?
        Do I need a visa to visit Vietnam? | Is a visa needed for Vietnam?
        Where do I enter my frequent flyer number? | How can I add my frequent flyer number?
        Can I choose my seat? | Is it possible to select a seat?
        I missed my connection, what now? | What should I do if I miss my connecting flight?
        When is the best time of year to visit Norway? | What's the best season for a trip to Norway?
        Is there parking at the hotel? | Does the hotel have a car park?
    """,
    "knowledge": """
        Why do cats purr? | What makes cats purr?
        Who discovered penicillin? | By whom was penicillin discovered?
        How many planets are there in the solar system? | What is the number of planets in our solar system?
        How do planes stay in the air? | What keeps airplanes flying?
        When did the Berlin Wall come down? | In what year did the Berlin Wall fall?
        Is a tomato a fruit? | Are tomatoes fruits?
        What's the tallest mountain on earth? | Which mountain is the highest in the world?
        How do I get red wine out of a carpet? | What removes red wine stains from carpet?
        At what age do babies start to walk? | When do babies begin walking?
        How can I fall asleep faster? | What can I do to fall asleep more quickly?
        What does the mitochondrion do? | What is the function of mitochondria?
        How is cheese made? | How do they make cheese?
        Which foods are high in iron? | What food contains a lot of iron?
        Can you get sunburnt on a cloudy day? | Is it possible to get a sunburn when it is cloudy?
        Did Shakespeare write Othello? | Was Othello written by Shakespeare?
        How do I say no politely? | What's a polite way to say no?
        How big is the moon compared to the earth? | What is the size of the moon relative to the earth?
        Summarise the plot of Emma | Give me a short summary of Emma's plot
    """,
    "code": """
        How do I read a file line by line in Python? | python read file line by line
        What is the difference between a list and a tuple? | How do tuples differ from lists?
        How can I undo my last git commit? | git: revert the latest commit
        How do I find the length of an array in JavaScript? | js get array length
        Why is my SQL query so slow? | What makes my SQL query run slowly?
        How do I sort a dictionary by its values? | sort a dict by value
        Explain closures | What's a closure in programming?
        How to remove duplicates from a list | How can I delete duplicate items in a list?
        How do I kill a process on a port? | Kill the process that is using a port
        How do I run a container in the background? | How can I start a container in detached mode?
        Write a regex that matches an email address | regular expression to match email addresses
        What does a 503 status mean? | Meaning of HTTP status 503
        How can I check if a key exists in a map? | How do you test whether a map contains a key?
        How do I convert a string to an int? | How to parse an integer from a string
        What is dependency injection? | Can you explain dependency injection to me?
    """,
}

MUST_MISS = {
    "number": """
        Can I withdraw 400 at once? | Can I withdraw 4,000 at once?
        What does error 13 mean? | What does error 31 mean?
        A table for four people | A table for six people
        Is 8 characters enough for a password? | Is 12 characters enough for a password?
        What is 15 percent of 80? | What is 18 percent of 80?
    """,
    "unit": """
        How far is 6 km? | How far is 6 miles?
        Can I carry 100 ml of liquid? | Can I carry 100 litres of liquid?
        I need 3 cups of flour in grams | I need 3 spoons of flour in grams
        Send 250 euros to Anna | Send 250 dollars to Anna
        Does the trial last 14 days? | Does the trial last 14 weeks?
    """,
    "id": """
        Where is order A-20991? | Where is order A-20919?
        What is flight LH441 doing? | What is flight LH414 doing?
        Please look at ticket SUP-118 | Please look at ticket SUP-181
        Track DHL 00340434161094042557 | Track DHL 00340434161094042558
        Why does CVE-2021-44228 matter? | Why does CVE-2021-45046 matter?
    """,
    "date": """
        Is the branch open on 24 December? | Is the branch open on 27 December?
        Can I check in on Tuesday? | Can I check in on Thursday?
        What did inflation do in 2009? | What did inflation do in 2019?
        Are there trains after 9pm? | Are there trains after 11pm?
        How was the third quarter? | How was the fourth quarter?
        What are the fares in spring? | What are the fares in autumn?
    """,
    "name": """
        Who founded Netflix? | Who founded Spotify?
        does slack have a free version? | does trello have a free version?
        Transfer money to Greta Olsen | Transfer money to Marcus Olsen
        Revolut fees for students | Monzo fees for students
        Does Zendesk integrate with Jira? | Does Zendesk integrate with Asana?
        How old is Emma Stone? | How old is Emma Watson?
        What did Marie Curie discover? | What did Isaac Newton discover?
        can i pay with klarna | can i pay with paypal
        Is Ryanair cheaper than Lufthansa? | Is Ryanair cheaper than Wizz?
        Tesla share price history | Ford share price history
        How do I use pandas with excel? | How do I use polars with excel?
        Netgear router setup | Linksys router setup
    """,
    "place": """
        Do you deliver to Sweden? | Do you deliver to Portugal?
        best beaches near split | best beaches near dubrovnik
        How do I register a car in Texas? | How do I register a car in Ohio?
        things to do in san diego | things to do in san antonio
        Is it safe to drink tap water in peru? | Is it safe to drink tap water in austria?
        Do I need a plug adapter for Ireland? | Do I need a plug adapter for Italy?
        Hotels in New York | Hotels in New Orleans
        Berlin office address | Munich office address
        is there a branch in leeds | is there a branch in bristol
        Which currency is used in South Korea? | Which currency is used in South Africa?
    """,
    "variant": """
        What's in the Team plan? | What's in the Enterprise plan?
        How much storage comes with Basic? | How much storage comes with Pro?
        How do I install it on a mac? | How do I install it on windows?
        Fees of the travel credit card | Fees of the cashback credit card
        Can I get a refund for a train ticket? | Can I get a refund for a concert ticket?
        How do I close a savings account? | How do I close a brokerage account?
        What is a term life insurance? | What is a whole life insurance?
        How do I reset the router? | How do I reset the modem?
        Are economy fares refundable? | Are business fares refundable?
        How do I clean a leather sofa? | How do I clean a velvet sofa?
        Python 2 end of life | Python 3 end of life
        What does the silver membership cost? | What does the bronze membership cost?
        How do I lock a phone? | How do I lock a laptop?
        Can I get a personal loan? | Can I get a car loan?
        How do I add a row in pandas? | How do I add a column in pandas?
        Is the front camera good? | Is the rear camera good?
    """,
    "language": """
        Translate good evening to Finnish | Translate good evening to Hungarian
        binary search in C++ | binary search in Kotlin
        How do I reverse a string in Ruby? | How do I reverse a string in PHP?
        What is the Polish word for bread? | What is the Czech word for bread?
        Do you have support in german? | Do you have support in french?
    """,
    "negation": """
        Which cards have a foreign fee? | Which cards have no foreign fee?
        Why is my refund approved? | Why is my refund not approved?
        Can I travel without a passport? | Can I travel with a passport?
        What should I pack? | What should I not pack?
        Is Sunday delivery available? | Is Sunday delivery not available?
        foods that contain gluten | foods that don't contain gluten
        Which apps work offline? | Which apps never work offline?
        What if I have a receipt? | What if I have no receipt?
        What happens if I pay on time? | What happens if I don't pay on time?
        Who can work from home? | Who cannot work from home?
    """,
    "antonym": """
        Is the pool deep? | Is the pool shallow?
        What if my payment is early? | What if my payment is late?
        How do I hide a column? | How do I unhide a column?
        Why are interest rates high? | Why are interest rates low?
        Which laptops are heavy? | Which laptops are light?
        How do I make the text brighter? | How do I make the text darker?
        Is the seller trustworthy? | Is the seller untrustworthy?
        Why is my bill larger? | Why is my bill smaller?
        How do I expand a folder? | How do I collapse a folder?
        Is mould harmful? | Is mould harmless?
        What weakens the immune system? | What strengthens the immune system?
        cheapest seats on the train | priciest seats on the train
        How do I speed up the video? | How do I slow down the video?
        Is the item refundable? | Is the item nonrefundable?
        How do I connect a bank? | How do I disconnect a bank?
        How do I lengthen a skirt? | How do I shorten a skirt?
        Is it common to tip? | Is it rare to tip?
        What are the strengths of Java? | What are the weaknesses of Java?
        the first chapter of the book | the last chapter of the book
        Is the water hot? | Is the water cold?
    """,
    "direction": """
        Flights from Madrid to Vienna | Flights from Vienna to Madrid
        Move money from current to savings | Move money from savings to current
        convert celsius to fahrenheit | convert fahrenheit to celsius
        Can my boss sue me? | Can I sue my boss?
        Does Visa own Plaid? | Does Plaid own Visa?
        Is silver heavier than gold? | Is gold heavier than silver?
        Do wolves hunt bears? | Do bears hunt wolves?
        Can I switch from yearly to monthly billing? | Can I switch from monthly to yearly billing?
        How do I import contacts from Gmail to Outlook? | How do I import contacts from Outlook to Gmail?
        Did the buyer pay the seller? | Did the seller pay the buyer?
    """,
    "action": """
        Block my card | How do I block my card?
        Can you cancel my booking please? | How can I cancel my booking?
        Delete this workspace | How is a workspace deleted?
        Transfer 50 to savings | How do I transfer to savings?
        Please change my seat | How do I change my seat?
        Resend the invoice | How do I resend an invoice?
    """,
    "destructive": """
        How do I deactivate a user? | How do I delete a user?
        How do I archive a channel? | How do I delete a channel?
        Empty the trash | Restore the trash
        Can I pause my plan? | Can I terminate my plan?
        How do I format a drive? | How do I mount a drive?
        Drop the table users | Show the table users
        How do I unlink a bank account? | How do I close a bank account?
    """,
    "freshness": """
        What is the dollar worth today? | What is the dollar worth today?
        Is my flight delayed right now? | Is my flight delayed right now?
        Is the service down at the moment? | Is the service down at the moment?
        What are today's mortgage rates? | What are today's mortgage rates?
        newest version of Postgres | latest version of Postgres
        What's on sale this week? | What's on sale this week?
        How is the traffic on the A5 now? | How is the traffic on the A5 now?
    """,
    "owner": """
        Where is my invoice? | Where is my customer's invoice?
        Can I see my payslip? | Can my manager see my payslip?
        When does my visa expire? | When does my husband's visa expire?
        What is your phone number? | What is my phone number?
        Is my son's passport valid? | Is my daughter's passport valid?
        Show me my orders | Show me Paul's orders
        How do I reset my password? | How do I reset a user's password?
    """,
    "tense": """
        Did Apple use to make printers? | Does Apple make printers?
        Is the shop closed? | Was the shop closed?
        Was the fee charged? | Will the fee be charged?
        Is Carla a member? | Is Carla becoming a member?
        Does he still work there? | Did he use to work there?
    """,
}


def half(line: str) -> int:
    """Say in which half a pair lies, by a hash of it: 0 may be looked at, 1 is only counted."""
    return hashlib.blake2b(line.encode(), digest_size=1).digest()[0] % 2


def rows(which: int | None = None) -> list[tuple[str, str, str, bool]]:
    """Return kind, both texts, and whether one answer serves them; of one half or of both."""
    found = []
    for same, table in ((True, PARAPHRASES), (False, MUST_MISS)):
        for kind, block in table.items():
            for line in map(str.strip, block.strip().splitlines()):
                if which is None or half(line) == which:
                    asked, stored = line.split(" | ")
                    found.append((kind, asked, stored, same))
    return found
