rockspec_format = "3.0"
package = "eventstream"
version = "0.1.0-1"

description = {
  summary = "Server-Sent Events for Lua, served by a C core",
  detailed = [[
    Lets a Lua script serve Server-Sent Events. A C core on libuv and llhttp owns the sockets, encodes the events and
    flushes them; Lua handlers and intervals say what is sent. It runs beside luv in one loop, or in any other loop.
  ]],
  homepage = "https://github.com/eventstream-lua/eventstream",
  license = "MIT",
  labels = { "http", "network", "async" },
}

source = {
  url = "git+https://github.com/eventstream-lua/eventstream.git",
  tag = "v0.1.0",
}

supported_platforms = { "unix" }

dependencies = { "lua >= 5.1, < 5.5", "luv" }

external_dependencies = {
  LIBUV = { header = "uv.h", library = "uv" },
}

build = {
  type = "make",
  build_variables = {
    BUILD = "build/rock",
    WERROR = "", -- another compiler may know more warnings
    CFLAGS = "$(CFLAGS)",
    LIBFLAG = "$(LIBFLAG)",
    LUA_INCDIR = "$(LUA_INCDIR)",
    LIBUV_INCDIR = "$(LIBUV_INCDIR)",
    LIBUV_LIBDIR = "$(LIBUV_LIBDIR)",
  },
  install_variables = {
    BUILD = "build/rock",
    INST_LIBDIR = "$(LIBDIR)",
    INST_LUADIR = "$(LUADIR)",
    INST_BINDIR = "$(BINDIR)",
  },
  copy_directories = { "examples" },
}

test = {
  type = "command",
  command = "make test",
}
