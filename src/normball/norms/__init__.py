"""Norms, their duals, and the linear minimisation oracles of their unit balls.

Each module lists its norms in its `__all__`; nothing else registers them.
"""

from normball.norms import base, blocks, laws, product, rowcol, schatten, spectral, vector
from normball.norms.base import *
from normball.norms.blocks import *
from normball.norms.laws import *
from normball.norms.product import *
from normball.norms.rowcol import *
from normball.norms.schatten import *
from normball.norms.spectral import *
from normball.norms.vector import *

__all__: list[str] = []
__all__ += base.__all__
__all__ += blocks.__all__
__all__ += laws.__all__
__all__ += product.__all__
__all__ += rowcol.__all__
__all__ += schatten.__all__
__all__ += spectral.__all__
__all__ += vector.__all__
