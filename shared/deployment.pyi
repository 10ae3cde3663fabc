from deployment import *
