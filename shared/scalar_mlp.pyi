from scalar_mlp import *
