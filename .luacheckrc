std = "max" -- every Lua from 5.1 to 5.4, and LuaJIT
max_line_length = 120
files["spec"].std = "max+busted"
files["spec/support/openresty_app.lua"].read_globals = { "ngx" }
files["spec/support/redis_nginx_app.lua"].read_globals = { "ngx" }
exclude_files = { "spec/readers/node_modules", "build" }
