from cnn import *
