/* file: a file of a folder, open, as the body of an answer; never one outside the folder. */
#include "lua/binding.h"

#include "net/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CLASS "eventstream.file"

typedef struct file {
  int fd; /* below 0 once it was given away */
  int64_t offset;
  uint64_t size;
} file;

/* Whether what was opened lies in the folder, however it was named: links are resolved by then. 0 or a negative errno. */
static int check_inside(int folder, int fd) {
  char outer[PATH_MAX], inner[PATH_MAX];
  int err = es_platform_path(folder, outer, sizeof outer);
  if (err == 0)
    err = es_platform_path(fd, inner, sizeof inner);
  if (err != 0)
    return err;
  size_t len = strlen(outer);
  while (len > 0 && outer[len - 1] == '/')
    len--;
  return strncmp(inner, outer, len) == 0 && inner[len] == '/' ? 0 : -ENOENT;
}

/* Opens it for reading without waiting for what is no file. The descriptor, or a negative errno. */
static int open_inside(const char *folder, const char *path, struct stat *status) {
  int outer = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (outer < 0)
    return -errno;
  int fd = openat(outer, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  int err = fd < 0 ? -errno : check_inside(outer, fd);
  close(outer);
  if (err == 0 && fstat(fd, status) != 0)
    err = -errno;
  if (err == 0 && S_ISDIR(status->st_mode))
    err = -EISDIR;
  else if (err == 0 && !S_ISREG(status->st_mode))
    err = -ENOENT;
  if (err == 0)
    return fd;
  if (fd >= 0)
    close(fd);
  return err;
}

/* open_file(folder, path): a file, its size, and when it was changed: seconds and nanoseconds; or nil and the errno's
 * name. path has no NUL. */
static int l_open_file(lua_State *L) {
  const char *folder = luaL_checkstring(L, 1), *path = luaL_checkstring(L, 2);
  struct stat status;
  file *f = es_new_userdata(L, sizeof *f);
  f->fd = -1;
  luaL_getmetatable(L, CLASS);
  lua_setmetatable(L, -2);
  int fd = open_inside(folder, path, &status);
  if (fd < 0) {
    lua_pushnil(L);
    lua_pushstring(L, uv_err_name(fd));
    return 2;
  }
  *f = (file){fd, 0, (uint64_t)status.st_size};
  lua_pushnumber(L, (lua_Number)status.st_size);
  lua_pushnumber(L, (lua_Number)status.st_mtime);
  lua_pushnumber(L, (lua_Number)es_platform_mtime_ns(&status));
  return 4;
}

/* is_folder(path): whether files can be served from there; else the errno's name, too. */
static int l_is_folder(lua_State *L) {
  char path[PATH_MAX];
  int fd = open(luaL_checkstring(L, 1), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int err = fd < 0 ? -errno : es_platform_path(fd, path, sizeof path);
  if (fd >= 0)
    close(fd);
  lua_pushboolean(L, err == 0);
  if (err == 0)
    return 1;
  lua_pushstring(L, uv_err_name(err));
  return 2;
}

/* range(offset, size): only that part is sent. */
static int l_range(lua_State *L) {
  file *f = luaL_checkudata(L, 1, CLASS);
  f->offset = (int64_t)luaL_checknumber(L, 2);
  f->size = (uint64_t)luaL_checknumber(L, 3);
  return 0;
}

static int l_close(lua_State *L) {
  file *f = luaL_checkudata(L, 1, CLASS);
  if (f->fd >= 0)
    close(f->fd);
  f->fd = -1;
  return 0;
}

void es_stream_answer(lua_State *L, int index, es_stream *s) {
  es_slice lines, body;
  int status = (int)lua_tointeger(L, index);
  lines.ptr = lua_tolstring(L, index + 1, &lines.len);
  file *f = luaL_testudata(L, index + 2, CLASS);
  if (f != NULL && f->fd >= 0) {
    int fd = f->fd;
    f->fd = -1;
    es_exchange_answer_file(s->exchange, status, lines, fd, f->offset, f->size);
    return;
  }
  body.ptr = lua_tolstring(L, index + 2, &body.len);
  es_exchange_answer(s->exchange, status, lines, body.ptr != NULL ? body : (es_slice){"", 0});
}

void es_open_file_class(lua_State *L) {
  luaL_newmetatable(L, CLASS);
  lua_createtable(L, 0, 2);
  lua_pushcfunction(L, l_range);
  lua_setfield(L, -2, "range");
  lua_pushcfunction(L, l_close);
  lua_setfield(L, -2, "close");
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, l_close);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  lua_pushcfunction(L, l_open_file);
  lua_setfield(L, -2, "open_file");
  lua_pushcfunction(L, l_is_folder);
  lua_setfield(L, -2, "is_folder");
}
