"""How the parts are put together on one machine and on many."""
