"""Streams: in what order, and in which tasks, a learner meets a labelled data set.

Every function is pure: the same labels and seed give the same split on any machine (NumPy's PCG64).
No sample is copied; a task holds positions in the array of labels that it was made from.
"""

from .chronological import chronological as chronological
from .class_incremental import class_incremental as class_incremental
from .long_tailed import long_tailed as long_tailed
from .long_tailed import long_tailed_counts as long_tailed_counts
from .si_blurry import si_blurry as si_blurry
from .task import Task as Task
from .task import exposed as exposed
