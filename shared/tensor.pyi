from tensor import *
