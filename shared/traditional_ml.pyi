from traditional_ml import *
