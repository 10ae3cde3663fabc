from perceptron import *
