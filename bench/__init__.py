"""How fast, how soon, how exact and how large: whisperd measured on this machine, in one run.

Everything runs on loopback against servers started here, with speech made here whose words are known.
Figures of one run may be compared with each other; those of two runs only where the machine was as idle.
"""
