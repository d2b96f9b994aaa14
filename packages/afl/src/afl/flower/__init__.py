"""The federation over Flower (extra ``flower``): apps for both sides, a strategy, safe processes.

Nothing else in :mod:`afl` imports Flower. Import from the modules:
:mod:`afl.flower.client_app`, :mod:`afl.flower.server_app`, :mod:`afl.flower.strategy`,
:mod:`afl.flower.federate`.
"""
