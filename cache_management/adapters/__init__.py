"""One file for each framework that can ask this cache: one changed line in an app.

An adapter knows the core and its framework, which it loads itself: import the file you need.
"""
