"""Stand-ins for the programs that udppunch must interoperate with, and what tests put around them.

They are written from the protocols' description alone and import nothing of `udppunch`, so
that an error of ours cannot hide by being made at both ends.
"""
