"""When memory runs out."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or in the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    told = ("can't allocate memory", "MPS backend out of memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in told)
