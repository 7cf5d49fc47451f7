"""Pairs written by hand, by a gate that must refuse them; and pairs that one answer serves.

None comes from a data set. `asked | stored`, one pair a line.
"""

from __future__ import annotations

LONG = (
    "Dear team, we met on Monday with the people from the warehouse and went through the list of open orders again; "
    "most parcels left in time, a few were damaged on the road, and customers have been told what happens next."
)

REFUSED = {
    "number": """
        How do I join two tables on one column? | How do I join two tables on two columns?
        How do I merge one file? | How do I merge 3 files?
        Divide 10 by 2 | Divide 2 by 10
        Is 3 greater than 7? | Is 7 greater than 3?
        What is 20 minus 5? | What is 5 minus 20?
        20 - 5 | 5 - 20
        2^3 | 3^2
        2 to the power of 3 | 3 to the power of 2
        log base 2 of 8 | log base 8 of 2
        Does 5 divide 10? | Does 10 divide 5?
        ten divided by two | two divided by ten
        Subtract 4 from 9 | Subtract 9 from 4
        From 9 subtract 4 | Subtract 9 from 4
        What is 10 percent of 50? | What is 50 percent of 10?
        2 + 3 * 4 | 3 + 2 * 4
        What is 2 plus 3 squared? | What is 3 plus 2 squared?
        sort 2 2 3 | sort 2 3 2
        Divide a by b | Divide b by a
        2 or fewer apples and 5 pears | 5 or fewer apples and 2 pears
        If 3 workers need 6 days, how long do 2 workers need? | If 2 workers need 6 days, how long do 3 workers need?
        Set the width to 3 and the height to 5 | Set the width to 5 and the height to 3
        a flight for two adults and one child | a flight for one adult and two children
        Move row 3 to row 7 | Move row 7 to row 3
        rename A1 to B2 | rename B2 to A1
        copy /a/b to /c/d | copy /c/d to /a/b
        flights from March 5 to March 9 | flights from March 9 to March 5
        Is it open from Monday to Friday? | Is it open from Friday to Monday?
        Is it busy from 7:30 to 8:30? | Is it busy from 8:30 to 7:30?
        upgrade Redis 7 with Python 3 | upgrade Redis 3 with Python 7
        What is the largest lake? | What is the second largest lake?
        What was sold in the first quarter? | What was sold in the third quarter?
        How do I archive one message? | How do I archive all my messages?
        Does every airline allow cats in the cabin? | Does any airline allow cats in the cabin?
        What's new in Python 3.10? | What's new in Python 3.11?
        What is the price of the iPhone 12? | What is the price of the iPhone 13?
        What's the interest rate on a 15-year fixed mortgage? | What's the interest rate on a 30-year fixed mortgage?
        Transfer $500 to John | Transfer $5000 to John
        Stop payment on check 1042 | Stop payment on check 1043
        What does HTTP 404 mean? | What does HTTP 403 mean?
        Where is order 10234? | Where is order 10243?
        Summarize chapter 2 | Summarize chapter 3
        Give me 5 tips for public speaking | Give me 10 tips for public speaking
        When did World War I start? | When did World War II start?
        Can I order 12 chairs? | Can I order 20 chairs?
        Remind me in two hours | Remind me in three hours
        a 5% raise | a 15% raise
        What does ORA-00942 mean? | What does ORA-00943 mean?
        Can I feed my dog 2 grapes? | Can I feed my dog 20 grapes?
    """,
    "unit": """
        how much is 300 mexican pesos in dollars | how much is 300 dollars in mexican pesos
        What's the daily data allowance? | What's the monthly data allowance?
        How much may I withdraw each day? | How much may I withdraw per month?
        inflation year over year in May | inflation month over month in May
        send 10 USD | send 10 EUR
        5 miles in km | 5 km in miles
        How long is 10 minutes | How long is 10 hours
        Convert 100 euros to dollars | Convert 100 dollars to euros
        How do I cook 2 pounds of pasta? | How do I cook 2 ounces of pasta?
        a room of 20 feet | a room of 20 metres
        Is 100 mg of caffeine too much? | Is 100 g of caffeine too much?
        Heat the oven to 350 fahrenheit | Heat the oven to 350 celsius
    """,
    "id": """
        what is error code E1234 | what is error code E1235
        What was Apple's revenue in Q2 2023? | What was Apple's revenue in Q3 2023?
        status of ticket INC0012345 | status of ticket INC0012346
        open https://example.com/a | open https://example.com/b
        mail it to ann@example.com | mail it to bob@example.com
        edit /etc/hosts | edit /etc/passwd
        commit 3f2a9bc | commit 3f2a9bd
        Where is parcel 1Z999AA10123456784? | Where is parcel 1Z999AA10123456785?
        Room B12 booking | Room B14 booking
        report for Q1 | report for Q2
    """,
    "symbol": """
        grep -v foo | grep v foo
        ls -l | ls l
        rm -r | rm r
        git push -f | git push
        docker run --rm ubuntu | docker run ubuntu
        7 - 1 | 7 1
        x^y | y^x
        a - b | b - a
        a == b | a b
        Ist das Haus schon fertig gebaut | Ist das Haus schön fertig gebaut
        Cuántos años cumple hoy nuestro vecino | Cuántos anos cumple hoy nuestro vecino
        Is 5 > 3 true in Lua? | Is 5 < 3 true in Lua?
        (2 + 3) * 4 | 2 + (3 * 4)
        what does total += i do | what does total -= i do
        what does ls -l print | what does ls -a print
        what matches \\d in a regex | what matches \\D in a regex
        how many are in a MB | how many are in a Mb
        1 mW of light | 1 MW of light
    """,
    "date": """
        Is the pool open tonight? | Is the pool open on Saturday?
        Which shops are open tonight? | Which shops are open this weekend?
        What's the toll today? | What was the toll last year?
        trains tomorrow morning | trains this morning
        flights on March 5 | flights on March 6
        taxes for 2023 | taxes for 2024
        Who won the world cup in 2014? | Who won the world cup in 2018?
        meeting at 10am | meeting at 10pm
        Can I work remotely on Fridays? | Can I work remotely on Mondays?
        Set an alarm for 7:30 | Set an alarm for 8:30
        events on Saturday | events on Sunday
        schedule for 2024-05-01 | schedule for 2024-05-02
        flights on 12/05/2024 | flights on 13/05/2024
        music of the 1980s | music of the 1990s
        holidays in June | holidays in July
        Book a table for Friday at 7pm | Book a table for Friday at 8pm
    """,
    "entity": """
        Who painted The Pianist? | Who painted The Piano?
        How big is Niger? | How big is Nigeria?
        Who is the president of the USA? | Who is the president of Mexico?
        Does the S&P 500 include Tesla? | Does the Nasdaq include Tesla?
        How do I install the agent on Ubuntu? | How do I install the agent on CentOS?
        Who wrote Hamlet? | Who wrote Macbeth?
        Write a Python function that reverses a string | Write a Java function that reverses a string
        What is the longest river in Europe? | What is the longest river in Asia?
        How tall is Mount Everest? | How tall is Mount Fuji?
        Are you open on Christmas Eve? | Are you open on New Year's Eve?
        Who is the CEO of Siemens? | Who is the CEO of Bosch?
        restaurants near Times Square | restaurants near Union Square
        cheap hotels in lisbon | cheap hotels in porto
        How do I deploy to AWS? | How do I deploy to Azure?
        Does Kubernetes support IPv6? | Does Docker support IPv6?
        lyrics of Yesterday by the Beatles | lyrics of Yesterday by the Stones
        How do I say thank you in Japanese? | How do I say thank you in Korean?
        Is Ruth allergic to nuts? | Is Carla allergic to nuts?
        How do I sort a list in Rust? | How do I sort a list in Go?
        Why is Ohio so cold? | Why is Iowa so cold?
        Is Matt Lee a lawyer? | Is Matt Kim a lawyer?
        Is Islam peaceful? | Is Buddhism peaceful?
        support for the Plus subscription | support for the Starter subscription
        How much does a plumber earn in Norway? | How much does a plumber earn?
        Is Lisbon nicer than Porto in winter if I know Lisbon? | Is Lisbon nicer than Porto in winter if I know Porto?
        Is the Family package cheaper? | Is the Individual package cheaper?
        Does the Lite edition have ads? | Does the Ultimate edition have ads?
    """,
    "polarity": """
        Is 7 greater than 5? | Is 7 less than 5?
        select rows where age is greater than 30 | select rows where age is less than 30
        Is the rate higher than 4%? | Is the rate lower than 4%?
        Make this text shorter | Make this text longer
        Run the job automatically every day | Run the job manually every day
        Call the function synchronously | Call the function asynchronously
        How do I center a div horizontally? | How do I center a div vertically?
        Undo the last commit but keep the changes | Undo the last commit and discard the changes
        Write a regex to match emails | Write a regex to match everything but emails
        Reply with the word yes | Reply with the word no
        Draft an email saying yes to the invitation | Draft an email saying no to the invitation
        Write a reply that says yes to the meeting | Write a reply that says no to the meeting
        Should I answer yes to the survey? | Should I answer no to the survey?
        What happens if I click yes? | What happens if I click no?
        How do I say yes in Japanese? | How do I say nope in Japanese?
        Reply with the word true | Reply with the word false
        What does it mean if the light is on? | What does it mean if the light is off?
        What happens if I click accept? | What happens if I click decline?
        What happens if I press allow? | What happens if I press deny?
        Should I press up? | Should I press down?
        Can I return it within 30 days? | Can I return it after 30 days?
        Is coffee fine during pregnancy? | Is coffee fine after pregnancy?
        What are the benefits of leasing a car? | What are the drawbacks of leasing a car?
        list of guests who paid | list of guests who failed to pay
        What happens if I take the pills daily? | What happens if I stop taking the pills daily?
        show a star if A1 is empty | show a star unless A1 is empty
        Which soups contain milk? | Which soups are free of milk?
        how should I hire a cook | how should I lay off a cook
        How do you put on a drysuit? | How do you take off a drysuit?
        Can I check in in person? | Can I check out in person?
        How do I opt in to marketing in the app? | How do I opt out of marketing in the app?
        Do the lights stay on on Sunday? | Do the lights stay off on Sunday?
        What was the rule before the law changed? | What is the rule since the law changed?
        Which plants do bees pollinate? | Which plants don't get pollinated by bees?
        How do I turn on mail sorting on my phone? | How do I turn off mail sorting on my phone?
        Why do rents fall after bad news? | Why do rents rise after good news?
        Which museums are free? | Which museums outside the city centre are free?
        What happens to rents when wages go up? | If wages fall, what happens to rents?
        What should I drink before a race? | Once I have run a race, what should I drink?
        How can I speed up an audio book? | How can I slow down an audio book?
        Freeze my card | Unfreeze my card
        Does the phone have a stylus? | Does the phone lack a stylus?
        Do all branches open on Saturday? | Do some branches open on Saturday?
        What's the limit of my debit card? | What's the limit of my credit card?
        fees for domestic transfers | fees for international transfers
        Is it safe to take aspirin? | Is it not safe to take aspirin?
        Is it safe to take aspirin? | Is it dangerous to take aspirin?
        How do I increase my credit limit? | How do I decrease my credit limit?
        Can I lend a book? | Can I borrow a book?
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
        Lock my debit card | Unlock my debit card
        Can I raise my overdraft limit? | Can I lower my overdraft limit?
        How long does a domestic wire take? | How long does an international wire take?
        Is my deposit FDIC insured? | Is my deposit not FDIC insured?
        Can I withdraw from my 401k before retirement? | Can I withdraw from my 401k after retirement?
        What's the minimum payment on my card? | What's the maximum payment on my card?
        Is it possible to refinance with bad credit? | Is it possible to refinance with good credit?
        What was Tesla's net income in 2021? | What was Tesla's gross profit in 2021?
        Should I buy stocks when rates rise? | Should I sell stocks when rates rise?
        How do bond prices react when interest rates increase? | How do bond prices react when interest rates decrease?
        What is the tax on short-term capital gains? | What is the tax on long-term capital gains?
        Is the fund actively managed? | Is the fund passively managed?
        What are the advantages of index funds? | What are the disadvantages of index funds?
        Can a tenant terminate the lease early? | Can a landlord terminate the lease early?
        How do I send money to someone in Mexico? | How do I receive money from someone in Mexico?
        Block transactions in Russia | Allow transactions in Russia
        How do I upgrade to the Pro plan? | How do I downgrade from the Pro plan?
        How do I export data to CSV? | How do I import data from CSV?
        What causes high blood pressure? | What causes low blood pressure?
        Is it OK to take vitamins before meals? | Is it OK to take vitamins after meals?
        Do you ship to Canada? | Do you ship from Canada?
        Is the museum open on Sunday? | Is the museum closed on Sunday?
        What's the cheapest flight to Tokyo? | What's the most expensive flight to Tokyo?
        Which hotels allow pets? | Which hotels don't allow pets?
        How do I turn on airplane mode? | How do I turn off airplane mode?
        How do I mute a conversation? | How do I unmute a conversation?
        Why is my package early? | Why is my package late?
        Write a formal email to my boss | Write an informal email to my boss
        Write a function to sort a list in ascending order | Write a function to sort a list in descending order
        List the pros of remote work | List the cons of remote work
        What is the largest country in Africa? | What is the smallest country in Africa?
        When did the war start? | When did the war end?
        Should I never reuse passwords? | Should I reuse passwords?
        Why does my phone charge? | Why doesn't my phone charge?
        Are refunds possible? | Are refunds impossible?
        Is the treatment effective? | Is the treatment ineffective?
        Is parking allowed here? | Is parking forbidden here?
        How do I lock the door? | How do I unlock the door?
        Is it legal to record calls? | Is it illegal to record calls?
        Which laptop has the longest battery life? | Which laptop has the shortest battery life?
        What's the fastest route? | What's the slowest route?
        How can I gain weight? | How can I lose weight?
        Are taxes included? | Are taxes excluded?
        Can I opt in to emails? | Can I opt out of emails?
        How do I zoom in? | How do I zoom out?
        How do I attach a volume? | How do I detach a volume?
        What does the left button do? | What does the right button do?
        How can I become a positive person? | How can I become a person who is not positive?
        How can I become a positive person? | How can I become a negative person?
        How can I become more optimistic? | How can I become more pessimistic?
        How can I become more optimistic? | How can I become less optimistic?
        How can I become invisible? | How can I become visible?
        What was Laura Smith's life before becoming a nurse? | What was Laura Smith's life after becoming a nurse?
        Is it OK to smoke before 18? | Is it OK to smoke after 18?
        What happened before the war? | What happened after the war?
        Is Sue a mother? | Is Sue a father?
        What do the rich eat? | What do the poor eat?
        What are things a nurse should do? | What are things a nurse should not do?
        early repayment fee | late repayment fee
        primary cardholder | secondary cardholder
        gross salary | net salary
        outgoing transfers limit | incoming transfers limit
        How do I scale up the cluster? | How do I scale down the cluster?
        How do I stop the server? | How do I start the server?
        Is the beta stable? | Is the beta unstable?
    """,
    "direction": """
        Which birds eat wasps? | Which birds do wasps eat?
        What does a host usually give a guest? | What does a guest usually give a host?
        Who was the teacher of Plato? | Who was Plato the teacher of?
        Basel to Turin train departure times | Turin to Basel train departure times
        What details do I need to pay a cousin overseas? | What details does a cousin overseas need to pay me?
        Which clubs have beaten Ajax in a final? | Which clubs has Ajax beaten in a final?
        Can I move a pension with you over to another firm? | Can I move a pension with another firm over to you?
        can a tenant sue the landlord over a lease | is it possible for the landlord to sue a tenant over a lease
        Who thinks Ryan is smart? | Who does Ryan think is smart?
        Who did Brutus betray? | Who betrayed Brutus?
        Which illnesses can people get from pigeons? | Which illnesses can pigeons get from humans?
        How many Kodak patents did Apple buy? | How many Apple patents did Kodak buy?
        When did Kenya last beat Wales? | When was Kenya last beaten by Wales?
        If I change francs into yen, who sets the rate? | Who sets the rate if I change yen to francs?
        How do I transfer from savings to checking? | How do I transfer from checking to savings?
        convert USD to EUR | convert EUR to USD
        Does Google own YouTube? | Does YouTube own Google?
        Is Jacob hurting Nancy? | Is Nancy hurting Jacob?
        Is Anna taller than Bob? | Is Bob taller than Anna?
        flight from Boston to Denver | flight from Denver to Boston
        Are dogs smarter than cats? | Are cats smarter than dogs?
        trains from Milan to Rome | trains from Rome to Milan
        Did Germany invade Poland? | Did Poland invade Germany?
        Was Plato a student of Socrates? | Was Socrates a student of Plato?
        Merge branch dev into main | Merge branch main into dev
        migrate from Postgres to MySQL | migrate from MySQL to Postgres
        Did Rome defeat Carthage? | Did Carthage defeat Rome?
        Can lions eat hyenas? | Can hyenas eat lions?
        Is Paris larger than Berlin? | Is Berlin larger than Paris?
        Did Anna lend money to Tom? | Did Tom lend money to Anna?
        Is Kim older than Lee? | Is Lee older than Kim?
        translate from english to french | translate from french to english
        Is Kelly punching Tom? | Is Tom punching Kelly?
        Is Kelly punching Tom? | Is Kelly being punched by Tom?
        Did Kelly remember Tom? | Was Kelly remembered by Tom?
        Is Ryan indebted to Sam? | Is Sam indebted to Ryan?
        How do I get from Leeds to York? | How do I get from York to Leeds?
        Do I tip before paying? | Do I pay before tipping?
    """,
    "action": """
        How would I write a eulogy? | Write me a eulogy.
        How do I close my account? | Close my account
        Can you close my account? | How can I close my account?
        Cancel my subscription | How do I cancel my subscription?
        Activate my new card | How do I activate my new card?
        Show hidden files | Hide hidden files
        Reset my password | How do I reset my password?
        Please unsubscribe me | How do I unsubscribe?
        Book a flight to Rome | How do I book a flight to Rome?
        Could you update my address, please? | How can I update my address?
        Send an invoice to ACME | How do I send an invoice to ACME?
        Can you cancel my order? | What's the way to cancel my order?
        Create a backup of my phone | How can I create a backup of my phone?
    """,
    "question": """
        What is tempeh? | How do you make tempeh?
        Where was the treaty signed? | When was the treaty signed?
        Who invented the zip? | How was the zip invented?
        Why did the bridge fall? | When did the bridge fall?
    """,
    "destructive": """
        How do I delete project Apollo? | How do I archive project Apollo?
        delete project X | archive project X
        How do I open an account? | How do I close an account?
        Cancel my order | Return my order
        How do I undo a commit? | How do I make a commit?
        How to grant access to a user | How to revoke access from a user
        How do I restore a deleted file? | How do I delete a file?
        How do I drop a table in Postgres? | How do I create a table in Postgres?
        pause my subscription | cancel my subscription
        remove a user from a group | add a user to a group
        How do I add a joint owner? | How do I remove a joint owner?
        Delete my transaction history | Export my transaction history
        How do I add a user? | How do I remove a user?
        How do I erase the disk? | How do I back up the disk?
        delete the test database | create the test database
        terminate the instance | restart the instance
        Can I suspend my account? | Can I delete my account?
        Remove all contacts | Import all contacts
    """,
    "freshness": """
        What day is it? | What day is it?
        What's the current mortgage rate? | What's the current mortgage rate?
        What is the weather in Rome? | What is the weather in Rome?
        What is my current checking account balance? | What was my checking account balance last month?
        What is the price of gold today? | What is the price of silver today?
        What's the weather in Boston tomorrow? | What's the weather in Boston today?
        What is the latest version of Node? | What is the latest version of Node?
        Who is currently leading the race? | Who is currently leading the race?
        any news this week? | any news this week?
        What's the stock price of Apple right now? | What's the stock price of Apple right now?
    """,
    "principal": """
        What is my credit limit? | What is a credit limit?
        What is my balance? | What is your balance?
        What is my balance? | What is John's balance?
        What is my account balance? | What is my wife's account balance?
        Who can see my transactions? | Who can see your transactions?
        How much does my daughter owe? | How much do I owe?
        What was Apple's revenue in 2022? | What was Microsoft's revenue in 2022?
        When is my payment due? | When is his payment due?
        Who pays the seller's closing costs? | Who pays the buyer's closing costs?
        Is John Mary's brother? | Is John Peter's brother?
        How old is my son? | How old is his son?
        Where is our office? | Where is your office?
        Is my wife's passport valid? | Is my passport valid?
        When does Peter's shift start? | When does Laura's shift start?
        Can I see her calendar? | Can I see my calendar?
        Who is your manager? | Who is my manager?
        Show me my salary | Show me Tim's salary
        What size are men's shoes? | What size are women's shoes?
        Would he reject her if they were alone? | Would she reject him if they were alone?
    """,
    "variant": """
        What time does the evening show start? | What time does the morning show start?
        How do you say good morning in French? | How do you say good evening in French?
        Should I click OK? | Should I click Cancel?
        Translate 'hello' into Spanish | Translate 'goodbye' into Spanish
        What if I choose none? | What if I choose all?
        Reply with the word always | Reply with the word never
        Should I set it to all? | Should I set it to none?
        suggest a name for my cat | suggest another name for my cat
        tell me a joke | tell me another joke
        Write a poem about rain | Write a different poem about rain
        Can you give me an example? | Can you give me one more example?
        give me two ideas | give me two more ideas
        How do I report damage to my garage? | I want to report damage to my boat, how does that go?
        What documents are needed for a mortgage? | What documents are needed for a car loan?
        What happens if I miss a repayment on my personal loan? | What happens if I miss a repayment on my credit card?
        What does the app charge for a forward contract? | What does the app charge for a spot contract?
        How much interest is there on the everyday current account? | What interest has the everyday savings account?
        What is a call option? | What is a put option?
        How do I get a loan? | How do I repay a loan?
        Pay my credit card bill | Pay my electricity bill
        What do I owe on my mortgage? | What do I owe on my car loan?
        What is the annual fee for the Gold card? | What is the annual fee for the Platinum card?
        fee for the gold card | fee for the platinum card
        How do I install Docker on Windows? | How do I install Docker on macOS?
        What does the business plan include? | What does the personal plan include?
        interest on a savings account | interest on a checking account
        how do I fly to paris | how do I fly to london
        What is the monthly fee? | What is the annual fee?
        Can my employer see my emails? | Can my landlord see my emails?
        symptoms of flu in adults | symptoms of flu in children
        What is the capital of france | What is the capital of germany
        vitamin C deficiency | vitamin D deficiency
        Java tutorial | Python tutorial
        What are the side effects of ibuprofen? | What are the side effects of paracetamol?
        Is the basic plan free? | Is the premium plan free?
        Is Tom's car blue? | Is Tom's car red?
        What is a good breakfast? | What is a good dinner?
        write a poem about cats | write a poem about dogs
        translate this to French | translate this to German
        Transfer $500 to John | Transfer $500 to Jane
        What fees does the Premier account have? | What fees does the Basic account have?
        What's the contribution limit for a Roth IRA? | What's the contribution limit for a traditional IRA?
        How do I file taxes as single? | How do I file taxes as married?
        How do I report a lost card? | How do I report a stolen card?
        how to cancel a pending transfer | how to cancel a scheduled transfer
        Do you offer student loans? | Do you offer personal loans?
        Is the API rate limit per user? | Is the API rate limit per organization?
        restart the production server | restart the staging server
        Can I give aspirin to my dog? | Can I give aspirin to my cat?
        How many vacation days do new employees get? | How many vacation days do senior employees get?
        How many sick days do I get? | How many vacation days do I get?
        What's the return policy for shoes? | What's the return policy for electronics?
        Can I bring a baby on the flight for free? | Can I bring a dog on the flight for free?
        Name three mammals | Name three reptiles
        heavier than water | lighter than water
        Do plants absorb oxygen? | Do plants release oxygen?
        Is the free tier enough? | Is the enterprise tier enough?
        red wine with fish | white wine with fish
        How do I clean leather shoes? | How do I clean suede shoes?
        What is the calorie count of an apple? | What is the calorie count of a banana?
        How do I grow tomatoes? | How do I grow potatoes?
        iphone charger price | laptop charger price
        side effects of the flu shot | side effects of the tetanus shot
        maternity leave policy | paternity leave policy
        Does the hotel have a gym? | Does the hotel have a pool?
        business class baggage allowance | economy class baggage allowance
        How long does paint take to dry? | How long does glue take to dry?
        Is the desktop app free? | Is the mobile app free?
        Who plays the villain in Frozen? | Who plays the hero in Frozen?
        Should I buy a hamster? | Should I buy a ferret?
        Is she an adult? | Is she a minor?
        Do women like sports? | Do men like sports?
        Are gay people happy? | Are straight people happy?
        Which is better for beginners, a cello or a viola? | Which is better for experts, a cello or a viola?
        What is included in the standard plan? | What is included in the basic plan?
        Kindle app for tablets | Kindle app for phones
        retail banking hours | corporate banking hours
        fixed rate mortgage | variable rate mortgage
        virtual card limit | physical card limit
        How do I contact sales? | How do I contact support?
        part-time contract | full-time contract
        prepaid card fees | postpaid card fees
        What is the yearly price? | What is the monthly price?
        business card limit | student card limit
        How do I verify my email? | How do I verify my identity?
        How do I change my email? | How do I change my username?
        public holidays | school holidays
        unit tests in Rust | integration tests in Rust
    """,
    "edited": """
        LONG Summarize this email. | LONG Reply to this email.
        LONG The launch moved from May to June. | LONG The launch moved from June to May.
        LONG Anna leads the rollout and Ben trains people. | LONG Ben leads the rollout and Anna trains people.
    """,
    "tense": """
        Who is the CEO of Apple? | Who was the CEO of Apple?
        Who was the CEO of Apple? | Who will be the CEO of Apple?
        When does the tower close? | When did the tower close?
        Are there still bears in Wales? | Were there ever bears in Wales?
        Did John use to be a doctor? | Is John a doctor?
        Is Mark becoming a doctor? | Is Mark a doctor?
        Did she use to live in Rome? | Does she live in Rome?
        Is he no longer a member? | Is he a member?
        Was the shop open? | Is the shop open?
        Was the invoice sent? | Will the invoice be sent?
        Is Rita becoming a lawyer? | Is Rita a lawyer?
        Did he use to smoke? | Does he smoke?
        Is Mark Hill an actor? | Is Mark Hill becoming an actor?
        Is Mark Hill an actor? | Did Mark Hill use to be an actor?
    """,
}

REFUSED = {gate: lines.replace("LONG", LONG) for gate, lines in REFUSED.items()}

SERVED = """
    Who is Martin Luther? | Who was Martin Luther?
    Who was the most powerful king? | Who is the most powerful king?
    Can one person use 2 phones? | Can a person use 2 phones?
    How do I sort a list quickly? | How do I sort a list fast?
    Which files are longer than the others? | Which files are longer than all others?
    What is 5 + 3? | What is 3 + 5?
    What is 4 times 3? | What is 3 times 4?
    What is the sum of 3 and 5? | What is the sum of 5 and 3?
    Subtract 4 from 9 | From 9 subtract 4
    Why were 500 and 1000 rupee notes banned? | Why were 1000 and 500 rupee notes banned?
    Python 2 vs Python 3 | Python 3 vs Python 2
    Is it *really* good? | Is it really good?
    Difference between Python 2 and 3 | Difference between Python 3 and 2
    Does E12 mean the same as E13? | Does E13 mean the same as E12?
    Book a table for 2 people at 8 | Book a table at 8 for 2 people
    a flight for 2 adults and 3 children | a flight for 3 children and 2 adults
    Is $100 enough for 3 days? | For 3 days, is $100 enough?
    Can I use a 4 ohm amplifier with 8 ohm speakers? | Can I use 8 ohm speakers with a 4 ohm amplifier?
    What were the top 10 films of 2023? | In 2023, what were the top 10 films?
    meeting on Monday at 10:30 | meeting at 10:30 on Monday
    flight from Rome on 5 May to Oslo on 9 May | flight to Oslo on May 9 from Rome on May 5
    How do I convert 5 from base 10 to base 2? | How do I convert 5 to base 2 from base 10?
    Which one of the 2 is better? | Of the 2, which one is better?
    Is it raining? Answer yes or no | Answer yes or no: is it raining?
    Say hi to my boss | Say hello to my boss
    What happened on 9/11? | What happened on nine/11?
    call 1-800-555-1234 | call 1 800 555 1234
    What is 7 - 1? | What is 7 minus 1?
    How do I undo git push -f? | How can I undo git push -f?
    tell me another joke | tell me one more joke
    Is there another way to pay? | Is there any other way to pay?
    Where do I get a café latte? | Where do I get a cafe latte?
    what is 5 + 3 | what is 5 plus 3
    Is 2 × 3 even? | Is 2 * 3 even?
    Python - how do I sort? | Python: how do I sort?
    What does and/or mean? | What does "and/or" mean?
    Is Brittany an acquaintance of Andrea? | Is Andrea an acquaintance of Brittany?
    LONG Please summarize this email. | LONG Summarize this email.
    cakes without sugar | sugar-free cakes
    Which foods don't contain gluten? | Which foods are gluten-free?
    Who sold Louisiana to the US? | From whom did the US buy Louisiana?
    Who is Ann married to? | Who is married to Ann?
    What was big in the 90s? | What was big in the 1990s?
    Show "Done" unless A1 is blank | Show "Done" if A1 is not blank
    What are my chances to get into Stanford? | What is my chance of getting into Stanford?
    Does n't it work? | Doesn't it work?
    Is three quarters of an hour enough? | Are 45 minutes enough?
    Which teams beat Ajax? | Which teams have beaten Ajax?
    What do I need to pay you? | What is needed for me to pay you?
    How do I lose 20 pounds? | How do I lose 20 lbs?
    Is 39 °C a fever? | Does 102.2°F count as a fever?
    Is half an hour enough? | Are 30 minutes enough?
    Are a dozen eggs too many? | Are 12 eggs too many?
    How do I get rust off a pan? | How can I remove rust from a pan?
    How do I end my subscription? | How do I cancel my subscription?
    How is the weather in May? | What is the weather like in May?
    Why doesn't my AC start? | Why does my air conditioner not start?
    wat are the erly signs of diabetis | What are the early signs of diabetes?
    How do I sort a list in JS? | sorting a list in JavaScript, how?
    How can I make my garden neater? | How do I get a less messy garden?
    Where do I find my invoices? | How do I find my invoices?
    Where is the closest branch? | Which branch is near me?
    Can the change be reversed? | Is the change reversible?
    Is ten hours a day too much? | Is ten hours per day too much?
    How are dividends taxed in the US? | How are dividends taxed in the United States?
    Do I need a visa as a US citizen? | As an American citizen, do I need a visa?
    What is organisation design? | What is organization design?
    Are REST APIs stateless? | Is a REST API stateless?
    Which one is cheaper? | Which one is less expensive?
    how long does a 5k walk take | How long does it take to walk five kilometres?
    What are SEO basics? | What are the basics of search engine optimization?
    Did ducks eat before the swans? | Did the swans eat after ducks?
    3 people | three people
    Do you deliver on holidays? | Do you ship on holidays?
    Can you ship my order to a friend? | Can I have my order shipped to a friend?
    How do I say no to my boss? | What's a way to say no to my boss?
    How do I become rich? | How can I get rich?
    It is safe to swim here, isn't it? | Is it safe to swim here?
    How do I recover my account? | How do I get my account back?
    What are some amazing facts about bees? | What are some surprising facts about bees?
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
    What's my account balance? | How much money is in my account?
    How do I freeze my card? | What are the steps to freeze my card?
    I lost my debit card, what now? | What should I do if I lose my debit card?
    How can I change my PIN? | What's the process for changing my PIN?
    Are there fees for overdrafts? | Do you charge overdraft fees?
    How long do wire transfers take? | How much time does a wire transfer need?
    What documents do I need to open an account? | Which papers are required for opening an account?
    Can I deposit checks with my phone? | Is mobile check deposit available?
    How do I set up direct deposit? | How can I arrange direct deposit?
    What's your routing number? | Can you give me the routing number?
    Why was my card declined? | My card got declined, why?
    How do I update my address? | How can I change my mailing address?
    Where is the nearest ATM? | Find an ATM close to me
    What is the exchange rate for euros? | How many dollars is a euro worth?
    How do I apply for a loan? | What's the loan application process?
    How do I dispute a transaction? | I want to contest a transaction
    What are your opening hours? | When are you open?
    How do I reset my online banking password? | I forgot my online banking password, how can I reset it?
    Is there a monthly fee for the checking account? | Does the checking account have a monthly fee?
    How do I cancel my subscription? | What is the way to cancel my subscription?
    How do I track my order? | Where can I track my order?
    Can I return an item without a receipt? | Is it possible to return something if I have no receipt?
    What's the difference between a Roth and a traditional IRA? | How do a Roth IRA and a traditional IRA differ?
    How do I connect to the VPN? | What do I need to do to connect to the VPN?
    Do you ship internationally? | Do you deliver abroad?
    Write a short story about a robot | Please write me a short story about a robot
    Explain how vaccines work | How do vaccines work?
    Give me 5 tips for public speaking | List five public speaking tips
    What's the boiling point of water? | At what temperature does water boil?
    Who wrote Romeo and Juliet? | Who is the author of Romeo and Juliet?
    How far is the moon? | What is the distance to the moon?
    What is the capital of Japan? | Japan's capital city is what?
    How do I delete a branch in git? | git: how to remove a branch?
    How do I center a div in CSS? | What's the CSS to center a div?
    What time zone is Denver in? | Which time zone does Denver use?
    How many employees does Google have? | What is the number of employees at Google?
    Can dogs eat grapes? | Is it OK for dogs to eat grapes?
    How can I lower my blood pressure? | What are ways to reduce blood pressure?
    Is it safe to eat raw eggs? | Are raw eggs safe to eat?
    Can I get a refund? | Is it possible to get my money back?
    How do I make the font bigger? | How do I increase the font size?
    Can I pay by credit card? | Do you accept credit cards?
    My app keeps crashing | The app crashes all the time
    How do I turn off notifications? | How do I disable notifications?
    How do I log out? | How can I sign out?
    What happens if I miss a payment? | What are the consequences of missing a payment?
    Is there a limit on transfers? | Are transfers limited?
    Could you tell me what the annual fee is? | What is the annual fee?
    I'd like to know how to block my card | How do I block my card?
    Can my wife use my card? | Is my wife allowed to use my card?
    What do I do when my package doesn't arrive? | My package did not arrive, what do I do?
    Can I order 12 chairs? | Can I order twelve chairs?
    twenty-five people | 25 people
    a 5% raise | a 5 percent raise
    2,500 dollars | $2500
    1.5 million users | 1,500,000 users
    Where is parcel 1Z999AA10123456784? | Track parcel 1Z999AA10123456784
    schedule for May 1 | schedule for 1 May
    meeting at 2pm | meeting at 14:00
    What's on for Saturday? | What is happening on Saturday?
    restaurants near Times Square | Times Square restaurants
    Who's the CEO of Siemens? | Who runs Siemens?
    Where can I buy cheap wine? | Where can I get inexpensive wine?
    Is it legal to record calls? | Can I legally record calls?
    Is it illegal to record calls? | Is recording calls against the law?
    How do I make my code less slow? | How do I make my code faster?
    Why can't I connect? | Why am I unable to connect?
    Why doesn't my phone charge? | Why won't my phone charge?
    Are Tim and Ann friends? | Are Ann and Tim friends?
    Is Ann related to Tim? | Is Tim related to Ann?
    Compare Java and Kotlin | Compare Kotlin and Java
    Java vs Kotlin | Kotlin vs Java
    Did the dog bite the man? | Was the man bitten by the dog?
    How do I bake bread at home? | At home, how do I bake bread?
    Reset my password | Please reset my password
    Can you reset my password please? | Reset my password
    Can you tell me the opening hours? | What are the opening hours?
    Show me how to tie a tie | How do I tie a tie?
    Could you explain recursion? | What is recursion?
    How do I erase the disk? | How do I wipe the disk?
    How do I delete the file permanently? | How do I permanently delete the file?
    How do you clean leather shoes? | How can I clean leather shoes?
    How should one clean leather shoes? | How should I clean leather shoes?
    Is yoga good for back pain? | Does yoga help with back pain?
    What colour is the sky? | What color is the sky?
    organise a party | organize a party
    Is the pool heated? | Is the pool really heated?
    I want a quick and easy dinner | I want an easy and quick dinner
    Where do I find my invoices? | Where are my invoices?
    My laptop won't turn on | My laptop doesn't turn on
    Write a haiku about autumn | Compose a haiku about autumn
    Summarize the text below | Give a summary of the text below
    What are the symptoms of flu? | Which symptoms does the flu have?
    How to get rid of ants | How do I get rid of ants?
    how 2 reset my pasword | how to reset my password
    best pizza in Naples | the best pizza in Naples
    Who invented the telephone? | The telephone was invented by whom?
    Can cats drink milk? | Can a cat drink milk?
    Is there parking? | Do you have parking?
    Is the shop open? | is the shop open
    HOW DO I RESET MY PASSWORD | How do I reset my password?
    Do I need a visa for Japan? | Is a visa required for Japan?
    Why is the sky blue? | What makes the sky blue?
    How much sugar is in cola? | What is the amount of sugar in cola?
    How can I become a person who is not positive? | How can I become a negative person?
    How can I become a positive person? | How can I become a person who is positive?
    How can I become a positive person? | How can I become a person who is not negative?
    How can I become more optimistic? | How can I become less pessimistic?
    How can I become invisible? | How can I become not visible?
    How can I become a vegan? | How can I become vegan?
    Is Kelly punching Tom? | Is Tom being punched by Kelly?
    Did Kelly remember Tom? | Was Tom remembered by Kelly?
    Is Ryan engaged to Sam? | Is Sam engaged to Ryan?
    Do Ryan and Sam collaborate? | Do Sam and Ryan collaborate?
    Is Ryan the same as Sam? | Is Sam the same as Ryan?
    Is that lion really sleeping? | Is that lion sleeping?
    Can I eat that fish on the table? | Can I, in fact, eat that fish on the table?
    Can I hire a doctor? | Can I hire a physician?
    How do I stop being so anxious? | How do I stop being anxious?
    What is the best way to get a visa to the US? | How can I get a US visa?
    tea or coffee for a headache? | coffee or tea for a headache?
    Do I tip before paying? | Do I pay after tipping?
"""

# What no gate sees: measured, not hidden. A change here is news..replace("LONG", LONG)

STILL_SERVED = """
    tell me a joke | tell me a new joke
    Give me an example of a metaphor | Give me a second example of a metaphor
    Was she murdered by him? | Did she murder him?
    How do I dispute a charge? | How do I dispute a credit score?
    What is the routing number for wire transfers? | What is the routing number for direct deposit?
    What's the APY on the high-yield savings account? | What's the APY on a certificate of deposit?
    What's the fee for cash advances? | What's the fee for balance transfers?
    How can I deposit a check with my phone? | How can I deposit a check at an ATM?
    How do I roll back a deployment? | How do I start a deployment?
    Is ibuprofen safe during pregnancy? | Is ibuprofen safe while breastfeeding?
    How do I hide my last name? | How do I hide my phone number?
    Classify this review as positive: great food | Classify this review as positive: terrible food
    Is Mark Hill an actor? | Is Mark Hill an accredited actor?
"""
