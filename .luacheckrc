std = "max" -- every Lua from 5.1 to 5.4, and LuaJIT
max_line_length = 120
files["spec"].std = "max+busted"
exclude_files = { "spec/readers/node_modules" }
