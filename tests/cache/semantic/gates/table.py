"""Pairs written by hand, by the gate that must refuse them; and pairs that one answer serves.

None comes from a data set. `asked | stored`, one pair a line.
"""

from __future__ import annotations

REFUSED = {
    "number": """
        What's new in Python 3.10? | What's new in Python 3.11?
        What is the price of the iPhone 12? | What is the price of the iPhone 13?
    """,
    "unit": """
        send 10 USD | send 10 EUR
        5 miles in km | 5 km in miles
        How long is 10 minutes | How long is 10 hours
    """,
    "id": """
        what is error code E1234 | what is error code E1235
    """,
    "date": """
        flights on March 5 | flights on March 6
        taxes for 2023 | taxes for 2024
        Who won the world cup in 2014? | Who won the world cup in 2018?
        meeting at 10am | meeting at 10pm
    """,
    "entity": """
        What is the annual fee for the Gold card? | What is the annual fee for the Platinum card?
        How do I install Docker on Windows? | How do I install Docker on macOS?
        how do I fly to paris | how do I fly to london
        What is the capital of france | What is the capital of germany
        vitamin C deficiency | vitamin D deficiency
        Who is the president of the USA? | Who is the president of Mexico?
        translate this to French | translate this to German
    """,
    "polarity": """
        Freeze my card | Unfreeze my card
        What's the limit of my debit card? | What's the limit of my credit card?
        Is it safe to take aspirin? | Is it not safe to take aspirin?
        Is it safe to take aspirin? | Is it dangerous to take aspirin?
        How do I increase my credit limit? | How do I decrease my credit limit?
        Can I lend a book? | Can I borrow a book?
        How do I open an account? | How do I close an account?
        How do I enable notifications? | How do I disable notifications?
        coffee with sugar | coffee without sugar
        Should I eat before the exam? | Should I eat after the exam?
        What is the minimum deposit? | What is the maximum deposit?
        What is the min deposit? | What is the max deposit?
        How can I be more active? | How can I be less active?
        How do I log in? | How do I log out?
        turn on two-factor authentication | turn off two-factor authentication
        How do I upload a file to S3? | How do I download a file from S3?
        Who is the mother of Abraham Lincoln? | Who is the father of Abraham Lincoln?
        How do I buy bitcoin? | How do I sell bitcoin?
        Does the warranty cover water damage? | Does the warranty not cover water damage?
        Can I withdraw cash? | Can I deposit cash?
        When does the store open? | When does the store close?
        block my card | unblock my card
        What is the employee discount? | What is the employer discount?
        remove a user from a group | add a user to a group
    """,
    "direction": """
        How do I transfer from savings to checking? | How do I transfer from checking to savings?
        convert USD to EUR | convert EUR to USD
        Does Google own YouTube? | Does YouTube own Google?
        Is Jacob hurting Nancy? | Is Nancy hurting Jacob?
        Is Anna taller than Bob? | Is Bob taller than Anna?
        flight from Boston to Denver | flight from Denver to Boston
        Are dogs smarter than cats? | Are cats smarter than dogs?
    """,
    "action": """
        How do I close my account? | Close my account
        Can you close my account? | How can I close my account?
        Cancel my subscription | How do I cancel my subscription?
    """,
    "destructive": """
        How do I delete project Apollo? | How do I archive project Apollo?
        delete project X | archive project X
        Cancel my order | Return my order
        How do I undo a commit? | How do I make a commit?
        How to grant access to a user | How to revoke access from a user
        How do I restore a deleted file? | How do I delete a file?
        How do I drop a table in Postgres? | How do I create a table in Postgres?
        pause my subscription | cancel my subscription
    """,
    "freshness": """
        What's the current mortgage rate? | What's the current mortgage rate?
        What is the weather in Rome? | What is the weather in Rome?
    """,
    "principal": """
        What is my balance? | What is your balance?
        What is my balance? | What is John's balance?
        What is my account balance? | What is my wife's account balance?
    """,
    "variant": """
        fee for the gold card | fee for the platinum card
        What does the business plan include? | What does the personal plan include?
        interest on a savings account | interest on a checking account
        fees for domestic transfers | fees for international transfers
        What is the monthly fee? | What is the annual fee?
        Can my employer see my emails? | Can my landlord see my emails?
        symptoms of flu in adults | symptoms of flu in children
        Java tutorial | Python tutorial
        What are the side effects of ibuprofen? | What are the side effects of paracetamol?
        Is the basic plan free? | Is the premium plan free?
        Is Tom's car blue? | Is Tom's car red?
        What is a good breakfast? | What is a good dinner?
        write a poem about cats | write a poem about dogs
    """,
    "tense": """
        Did John use to be a doctor? | Is John a doctor?
        Is Mark becoming a doctor? | Is Mark a doctor?
    """,
}

SERVED = """
    3 people | three people
    1,000 users | 1000 users
    a thousand users | 1k users
    How can I be more happy? | How can I be less unhappy?
    How can I become more active? | How can I become less passive?
    Is Ann a nurse and a teacher? | Is Ann a teacher and a nurse?
    Is Anna married to Bob? | Is Bob married to Anna?
    How do I reset my password? | Please, how can I reset my password?
    How do I reset my password? | Can you tell me how to reset my password?
    What's the best way to learn Spanish? | How do I learn Spanish?
    Is that dog really sleeping? | Is that dog sleeping?
    How do I buy a car? | How do I purchase a car?
    movies with subtitles | films with subtitles
    How do you change your name on Facebook? | How do I change my name on Facebook?
    Is A better than B? | Is B worse than A?
    Did Oswald kill Kennedy? | Was Kennedy killed by Oswald?
    Explain photosynthesis | What is photosynthesis?
    In India, what is the best bank? | What is the best bank in India?
    send 1 km | send 1000 m
    wait 60 minutes | wait 1 hour
    How do I delete my account? | How can I remove my account?
    I forgot my password | I've forgotten my password
    how to lose weight fast | how to lose weight quickly
    What is the capital of the USA? | What is the capital of the U.S.?
    What is the phone number of support? | What is support's phone number?
    How do I setup my phone? | How do I set up my phone?
    my card has not arrived | my card hasn't arrived yet
    What is machine learning? | What is ML, machine learning?
    How do I recieve money? | How do I receive money?
    Tell me about black holes | Explain black holes
    Why is my payment not working? | Why isn't my payment working?
    Give me a recipe for pancakes | What is a recipe for pancakes?
    difference between cats and dogs | difference between dogs and cats
    Not only is it fast, is it safe? | Is it fast and safe?
    What do I do if my card is lost? | My card is lost, what should I do?
    How much does it cost to send money abroad? | What is the cost of sending money abroad?
    Could you please explain how to install Python? | How do I install Python?
    Can Apple buy Tesla? | Could Tesla be bought by Apple?
    Do I eat before I run? | Do I run after I eat?
    Which is bigger, Texas or Alaska? | Is Alaska or Texas bigger?
    What's the time complexity of quicksort? | time complexity of quicksort
    write a story about a dragon | Please write a story about a dragon
    How long does a transfer take? | How long do transfers take?
    I want to close my account | How do I close my account?
"""
