from command_line import *
