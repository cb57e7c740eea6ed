"""Golden bytes: how every frame and every durable record looked when it was first written down.

`golden.json` maps a name to hexadecimal texts, oldest first. The last is what this release writes of an example that is
made from the declared types alone (`tests.golden.examples`); every one of them must be readable for ever. When a type
grows a field at its end, its test fails until the new bytes are added:

    python -m tests.golden add

which appends what is new and changes nothing that is there. A type that changed otherwise cannot be added: its
old bytes would not read as they did.
"""
