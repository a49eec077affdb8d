# eventstream: `make help` says what can be made.
#
# LUA names the Lua to build for and to run: lua5.1 to lua5.4, or luajit. LuaRocks calls the default target and
# `install` with the variables of its recommended practice; the other targets are for developers.

LUA          ?= lua5.4
BUILD        ?= build/$(notdir $(LUA))
CFLAGS       ?= -O2 -g
LIBFLAG      ?= $(if $(darwin),-bundle -undefined dynamic_lookup,-shared)
WERROR       ?= -Werror
SPECS        ?= spec
FUZZ_SECONDS ?= 60

darwin := $(filter Darwin,$(shell uname -s))
comma  := ,

# --- What the system has ---

pkg = $(shell pkg-config $(1) 2>/dev/null)

# The same Lua is lua5.4 on Debian, lua54 on Arch and lua on Fedora.
lua_name    := $(notdir $(LUA))
lua_pc      := $(firstword $(foreach n,$(lua_name) $(subst .,,$(lua_name)) lua,$(call pkg,--exists $(n) && echo $(n))))
lua_flags   := $(if $(LUA_INCDIR),-I$(LUA_INCDIR),$(if $(lua_pc),$(call pkg,--cflags $(lua_pc))))
libuv_flags := $(if $(LIBUV_INCDIR),-I$(LIBUV_INCDIR),$(call pkg,--cflags libuv))
libuv_libs  := $(if $(LIBUV_LIBDIR),-L$(LIBUV_LIBDIR) -luv,$(or $(call pkg,--libs libuv),-luv))

# llhttp as a library; else the sources that Debian ships with Node's modules, compiled as they are.
LLHTTP_PREFIX ?= /usr/share
ifneq ($(call pkg,--exists libllhttp && echo found),)
  llhttp_flags := $(call pkg,--cflags libllhttp)
  llhttp_libs  := $(call pkg,--libs libllhttp)
else
  llhttp_names := $(notdir $(wildcard $(LLHTTP_PREFIX)/llhttp/*.c))
  llhttp_flags := -DLLHTTP_STRICT_MODE=1 -isystem $(LLHTTP_PREFIX)/include/llhttp
endif
llhttp_missing := $(if $(llhttp_libs)$(llhttp_names),,llhttp not found: install node-llhttp (Debian, Ubuntu), \
  llhttp-dev (Alpine), llhttp-devel (Fedora) or llhttp (Arch, Homebrew))

# --- Building ---

warnings := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes $(WERROR)
includes := -Icsrc $(lua_flags) $(libuv_flags) $(llhttp_flags)
compile   = $(CC) -std=c11 -D_GNU_SOURCE -fPIC -fvisibility=hidden $(includes) $(CFLAGS)
# Only luaopen_... leaves the module, also where llhttp is linked statically. It is never unloaded: Lua 5.1 and LuaJIT
# do that while they close, before they call __gc of what is older than the module, which may still have a stream.
exports  := -Wl,$(if $(darwin),-exported_symbol$(comma)_luaopen_*,--version-script=tools/exports.map$(comma)-z$(comma)nodelete)

sources = $(wildcard $(addprefix csrc/,$(addsuffix /*.c,$(1))))
objects = $(patsubst csrc/%.c,$(BUILD)/obj/%.o,$(call sources,$(1)))
llhttp  = $(addprefix $(BUILD)/obj/llhttp/,$(llhttp_names:.c=.o))
module  = $(BUILD)/eventstream/core.so
tests   = $(patsubst csrc/test/%.c,$(BUILD)/test/%,$(wildcard csrc/test/*_test.c))

# Test programs see all allocations of the core's (csrc/test/memory.h), where the linker can do that.
wrapped  := malloc calloc realloc free
wrap     = $(if $(darwin),,$(addprefix -Wl$(comma)--wrap=,$(1)))
memory   = $(BUILD)/obj/test/memory.o

# TLS for eventstream.connect, a module of its own: it is left out where OpenSSL is not found.
openssl_flags := $(if $(OPENSSL_INCDIR),-I$(OPENSSL_INCDIR),$(call pkg,--cflags openssl))
openssl_libs  := $(if $(OPENSSL_LIBDIR),-L$(OPENSSL_LIBDIR) -lssl -lcrypto,$(call pkg,--libs openssl))
tls           := $(if $(openssl_libs),$(BUILD)/eventstream/tls.so)

# Redis for eventstream.redis, likewise: it is left out where hiredis is not found.
hiredis_flags := $(if $(HIREDIS_INCDIR),-I$(HIREDIS_INCDIR),$(call pkg,--cflags hiredis))
hiredis_libs  := $(if $(HIREDIS_LIBDIR),-L$(HIREDIS_LIBDIR) -lhiredis,$(call pkg,--libs hiredis))
redis         := $(if $(hiredis_libs),$(BUILD)/eventstream/hiredis.so)

.PHONY: build
build: $(module) $(tls) $(redis)

$(module): $(call objects,core net lua) $(llhttp) tools/exports.map
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LIBFLAG) $(exports) -o $@ $(filter %.o,$^) $(LDFLAGS) $(libuv_libs) $(llhttp_libs)

$(BUILD)/eventstream/tls.so: $(call objects,tls) tools/exports.map
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LIBFLAG) $(exports) -o $@ $(filter %.o,$^) $(LDFLAGS) $(openssl_libs)

$(BUILD)/obj/tls/%.o: includes += $(openssl_flags)

$(BUILD)/eventstream/hiredis.so: $(call objects,redis) tools/exports.map
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LIBFLAG) $(exports) -o $@ $(filter %.o,$^) $(LDFLAGS) $(hiredis_libs) $(libuv_libs)

$(BUILD)/obj/redis/%.o: includes += $(hiredis_flags)

$(BUILD)/test/%: $(BUILD)/obj/test/%.o $(memory) $(call objects,core) $(llhttp)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(call wrap,$(wrapped)) -o $@ $^ $(LDFLAGS) $(llhttp_libs)

$(BUILD)/obj/%.o: csrc/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(compile) $(warnings) -MMD -MP -c -o $@ $<

$(BUILD)/obj/llhttp/%.o: $(LLHTTP_PREFIX)/llhttp/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(compile) -w -c -o $@ $<

# Written only when the compiler or its flags change: then everything is compiled anew.
$(BUILD)/flags: always
	$(if $(llhttp_missing),$(error $(llhttp_missing)))
	@mkdir -p $(@D)
	@echo '$(compile) $(warnings)' | cmp -s - $@ || echo '$(compile) $(warnings)' > $@

.PHONY: always
always:

.SECONDARY:
-include $(wildcard $(BUILD)/obj/*/*.d)

# --- Installing: by LuaRocks, or by hand ---

PREFIX      ?= /usr/local
lua_version  = $(shell $(LUA) -e 'io.write(_VERSION:match "%d%.%d")')
INST_LIBDIR ?= $(PREFIX)/lib/lua/$(lua_version)
INST_LUADIR ?= $(PREFIX)/share/lua/$(lua_version)
INST_BINDIR ?= $(PREFIX)/bin
lua_folders := eventstream eventstream/command eventstream/openresty eventstream/redis

# Builds nothing: the build's variables are not given to this pass.
.PHONY: install
install:
	mkdir -p $(INST_LIBDIR)/eventstream $(INST_BINDIR) $(addprefix $(INST_LUADIR)/,$(lua_folders))
	cp $(module) $(wildcard $(BUILD)/eventstream/tls.so $(BUILD)/eventstream/hiredis.so) $(INST_LIBDIR)/eventstream/
	cp lua/eventstream.lua $(INST_LUADIR)/
	for folder in $(lua_folders); do cp lua/$$folder/*.lua $(INST_LUADIR)/$$folder/; done
	cp bin/eventstream $(INST_BINDIR)/

# --- Running and testing ---

# The work tree comes first on the paths. Specs start their children with $LUA too: a wrapper finds Lua in $PLAIN_LUA.
runner  = $(LUA)
run_env = LUA="$(runner)" PLAIN_LUA="$(LUA)" \
  LUA_PATH="$(CURDIR)/lua/?.lua;$${LUA_PATH:-;}" LUA_CPATH="$(CURDIR)/$(BUILD)/?.so;$${LUA_CPATH:-;}"

.PHONY: run serve openresty test check check-core check-specs
run: ## install what is missing, build, serve the example on http://127.0.0.1:8080/
	@tools/packages build
	@$(MAKE) --no-print-directory serve

serve: build
	@$(run_env) exec $(runner) examples/ping.lua

# What nginx's Lua module runs, whatever Lua the rest is for.
NGINX ?= nginx

openresty: ## install what is missing, build, serve the examples inside nginx on http://127.0.0.1:8080/
	@LUA=luajit tools/packages build openresty
	@$(MAKE) --no-print-directory LUA=luajit serve-openresty

serve-openresty: build
	@$(run_env) exec $(NGINX) -e stderr -p $(CURDIR) -c examples/openresty/nginx.conf

test: ## install what is missing and light, build, run the core's tests and all specs
	@tools/packages build test
	@$(MAKE) --no-print-directory check

check: check-core check-specs ## the same, without installing; SPECS=spec/one_spec.lua runs one, QUICK=1 those below a minute

# What a server under test has preloaded, so that its calls fail on demand.
$(BUILD)/test/faults.so: csrc/test/faults.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) -std=c11 -D_GNU_SOURCE -fPIC $(warnings) -O2 -shared -o $@ $< -ldl

check-core: $(tests)
	@tools/check_core $^

# Those tagged #long try the core for minutes, with hundreds of clients: whatever the Lua, it is the same.
check-specs: build $(if $(darwin),,$(BUILD)/test/faults.so)
	@$(run_env) EVENTSTREAM_FAULTS_LIBRARY="$(CURDIR)/$(BUILD)/test/faults.so" $(runner) spec/run.lua $(if $(QUICK),--exclude-tags=long) $(SPECS)

# --- Checking more ---

sanitizers := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all

.PHONY: sanitize valgrind collect fuzz fuzz-all lint format bench fresh clean help
sanitize: ## `check` under gcc's address, leak and undefined behaviour sanitizers
	@if [ -n "$$(command -v luajit)" ]; then $(MAKE) --no-print-directory build CC=gcc LUA=luajit \
	  BUILD=build/sanitize-luajit CFLAGS="$(sanitizers)"; fi
	@$(MAKE) --no-print-directory check CC=gcc BUILD=build/sanitize CFLAGS="$(sanitizers)" \
	  runner=$(CURDIR)/tools/lua_sanitized

valgrind: build ## the specs under valgrind: slow, so better with SPECS=spec/one_spec.lua
	@$(MAKE) --no-print-directory check-specs runner=$(CURDIR)/tools/lua_valgrind

collect: build ## the specs with a collector that runs a whole cycle, at once, whenever a third more is in use
	@LUA_INIT_5_4="collectgarbage('incremental', 130, 1000, 30)" $(MAKE) --no-print-directory check-specs

fuzz: ## run each fuzzer for FUZZ_SECONDS=60, from its kept corpus; -j2 runs two at once
	@$(MAKE) --no-print-directory fuzz-all CC=clang BUILD=build/fuzz CFLAGS="$(sanitizers) -fsanitize=fuzzer-no-link"

fuzz-all: $(patsubst csrc/fuzz/%_fuzz.c,fuzz-%,$(wildcard csrc/fuzz/*_fuzz.c))

# A copy of the corpus grows; what is worth keeping is added to spec/corpus by hand.
fuzz-%: $(BUILD)/bin/%_fuzz
	@mkdir -p $(BUILD)/corpus/$*
	@cp -R spec/corpus/$*/. $(BUILD)/corpus/$*/
	$< -verbosity=0 -print_final_stats=1 -timeout=10 -max_total_time=$(FUZZ_SECONDS) \
	  -artifact_prefix=$(BUILD)/$*- $(BUILD)/corpus/$*

$(BUILD)/bin/%_fuzz: $(BUILD)/obj/fuzz/%_fuzz.o $(memory) $(call objects,core) $(llhttp)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -fsanitize=fuzzer $(call wrap,$(wrapped)) -o $@ $^ $(LDFLAGS) $(llhttp_libs) $(libuv_libs)

# These are the kernel and the clock, too.
$(BUILD)/bin/stream_fuzz: $(patsubst %,$(BUILD)/obj/fuzz/stream_%.o,script client oracle) $(call objects,net)
$(BUILD)/bin/connection_fuzz: $(call objects,net)
$(BUILD)/bin/stream_fuzz $(BUILD)/bin/connection_fuzz: wrapped += send sendmsg uv_now uv_hrtime

c_files = $(wildcard csrc/*/*.[ch] bench/*.[ch])

lint: ## luacheck, clang-format, cppcheck, and the direction of the includes
	luacheck --quiet . *.rockspec .luacheckrc
	clang-format --dry-run -Werror $(c_files)
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -Icsrc csrc
	tools/check_includes

format: ## lay out the C sources as `lint` wants them
	clang-format -i $(c_files)

bench: build ## measure, against the floor and the peers
	@$(run_env) bench/run

fresh: ## prove `make test` and `make run` in a new, minimal Debian (as root)
	tools/fresh

clean: ## remove what was built
	rm -rf build

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' Makefile | expand -t 12
