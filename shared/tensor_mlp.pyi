from tensor_mlp import *
