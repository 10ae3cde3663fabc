from scalar_autograd import *
