#include "net/head.h"

#include "core/text.h"

#include <stdio.h>
#include <string.h>

#define OUR_LINES_MAX 512 /* status line and all lines of our own, which have fixed or numeric values */

const char *es_status_text(int status) {
  static const struct {
    int status;
    const char *text;
  } texts[] = {
      {200, "OK"},
      {201, "Created"},
      {202, "Accepted"},
      {204, "No Content"},
      {206, "Partial Content"},
      {301, "Moved Permanently"},
      {302, "Found"},
      {303, "See Other"},
      {304, "Not Modified"},
      {307, "Temporary Redirect"},
      {308, "Permanent Redirect"},
      {400, "Bad Request"},
      {401, "Unauthorized"},
      {402, "Payment Required"},
      {403, "Forbidden"},
      {404, "Not Found"},
      {405, "Method Not Allowed"},
      {406, "Not Acceptable"},
      {408, "Request Timeout"},
      {409, "Conflict"},
      {410, "Gone"},
      {411, "Length Required"},
      {412, "Precondition Failed"},
      {413, "Content Too Large"},
      {414, "URI Too Long"},
      {415, "Unsupported Media Type"},
      {416, "Range Not Satisfiable"},
      {421, "Misdirected Request"},
      {422, "Unprocessable Content"},
      {426, "Upgrade Required"},
      {428, "Precondition Required"},
      {429, "Too Many Requests"},
      {431, "Request Header Fields Too Large"},
      {500, "Internal Server Error"},
      {501, "Not Implemented"},
      {502, "Bad Gateway"},
      {503, "Service Unavailable"},
      {504, "Gateway Timeout"},
      {505, "HTTP Version Not Supported"},
  };
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    if (texts[i].status == status)
      return texts[i].text;
  }
  return "";
}

bool es_head_has(es_slice lines, const char *name) {
  size_t len = strlen(name), i = 0;
  while (i < lines.len) {
    size_t k = 0;
    while (k < len && i + k < lines.len && es_lower(lines.ptr[i + k]) == name[k])
      k++;
    if (k == len && i + k < lines.len && lines.ptr[i + k] == ':')
      return true;
    const char *end = memchr(lines.ptr + i, '\n', lines.len - i);
    if (end == NULL)
      return false;
    i = (size_t)(end - lines.ptr) + 1;
  }
  return false;
}

static char *add(char *at, const char *line) {
  size_t len = strlen(line);
  memcpy(at, line, len);
  return at + len;
}

int es_head_write(es_queue *queue, const es_head *head) {
  es_slice extra = head->extra;
  size_t room = head->cors != NULL ? es_cors_room(head->cors, head->origin) : 0;
  char *start = es_queue_reserve(queue, OUR_LINES_MAX + room + extra.len);
  if (start == NULL)
    return -1;
  char *at = start;
  at += snprintf(at, OUR_LINES_MAX, "HTTP/1.1 %03d %s\r\n", head->status, es_status_text(head->status));
  if (!es_head_has(extra, "date"))
    at += snprintf(at, 64, "Date: %s\r\n", head->date);
  if (head->stream) {
    at = add(at, "Content-Type: text/event-stream\r\n");
    if (!es_head_has(extra, "cache-control"))
      at = add(at, "Cache-Control: no-cache, no-transform\r\n");
    if (!es_head_has(extra, "x-accel-buffering"))
      at = add(at, "X-Accel-Buffering: no\r\n");
    if (head->chunked)
      at = add(at, "Transfer-Encoding: chunked\r\n");
  }
  if (!es_head_has(extra, "connection"))
    at = add(at, head->keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n");
  if (head->content_length >= 0)
    at += snprintf(at, 64, "Content-Length: %lld\r\n", (long long)head->content_length);
  if (head->cors != NULL)
    at = es_cors_write(at, head->cors, head->origin, es_head_has(extra, "access-control-allow-origin"));
  if (extra.len > 0) {
    memcpy(at, extra.ptr, extra.len);
    at += extra.len;
  }
  at = add(at, "\r\n");
  es_queue_commit(queue, (size_t)(at - start));
  return 0;
}
