"""One module or one package at a time, fed by hand: no network, no subprocess that lives on, no sleeping."""
