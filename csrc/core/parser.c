#include "core/parser.h"

#include "core/text.h"

#include <llhttp.h>
#include <stdlib.h>
#include <string.h>

#define HEADERS_MAX 256 /* header lines; with header_bytes this bounds what a head can hold */
#define BODY_FIRST 4096 /* bytes first allocated for a body: an announced length costs nothing until bytes come */
#define CHUNK_EXTRA 16  /* bytes that may surround each byte of a chunked body, beside header_bytes */
#define TEXT_FIRST 512  /* bytes first allocated for a head: what curl or a small client sends */

typedef struct span {
  size_t at, len;
} span;

typedef struct line {
  span name, value;
} line;

enum { IN_NOTHING, IN_NAME, IN_VALUE };

/* How far the lines of a head or a trailer were looked at, beside llhttp, which takes some that others would understand in
 * another way. */
typedef struct layout {
  bool begun;      /* its first line has */
  bool first;      /* that is the request line, until it ends */
  bool ended;      /* by an empty line */
  size_t len;      /* of the line under way, with its CR */
  char last;       /* byte */
  uint64_t window; /* the last 8 bytes of the first line */
} layout;

struct es_parser {
  llhttp_t http;
  size_t header_bytes, body_bytes; /* limits */
  char *text;                      /* target, header names and values, side by side */
  size_t text_len, text_size;
  size_t fed;   /* bytes of this request's head that were fed */
  size_t extra; /* bytes that came with its body and are no body: chunk sizes and extensions, trailers */
  span target;
  line *lines;
  size_t line_count, line_size;
  layout look;
  bool trailing; /* the last chunk is there, and what follows are the trailer's lines */
  int in;
  char *body;
  size_t body_len, body_size, body_max; /* max: as announced, or the limit */
  es_budget *budget;
  bool begun, head_done, wants_continue;
  int status;
  const char *reason;
  es_request *request;
};

/* Ends the parsing with a status; returns what an llhttp callback has to return. */
static int refuse(es_parser *p, int status, const char *reason) {
  if (p->status == 0) {
    p->status = status;
    p->reason = reason;
  }
  return HPE_USER;
}

static int add_text(es_parser *p, const char *bytes, size_t len) {
  if (len > p->text_size - p->text_len) {
    size_t size = p->text_size > 0 ? p->text_size : TEXT_FIRST;
    while (size - p->text_len < len)
      size *= 2;
    char *text = realloc(p->text, size);
    if (text == NULL)
      return refuse(p, 500, "out of memory");
    p->text = text;
    p->text_size = size;
  }
  memcpy(p->text + p->text_len, bytes, len);
  p->text_len += len;
  return 0;
}

/* Makes room for a body of so many bytes. */
static int grow_body(es_parser *p, size_t size) {
  if (p->budget != NULL && !es_budget_allows(p->budget, size - p->body_size))
    return refuse(p, 503, "the server is full");
  char *body = realloc(p->body, size);
  if (body == NULL)
    return refuse(p, 500, "out of memory");
  if (p->budget != NULL)
    p->budget->used += size - p->body_size;
  p->body = body;
  p->body_size = size;
  return 0;
}

static int on_begin(llhttp_t *http) {
  es_parser *p = http->data;
  p->begun = true;
  return 0;
}

static int on_url(llhttp_t *http, const char *at, size_t len) {
  es_parser *p = http->data;
  if (p->target.len + len > p->header_bytes)
    return refuse(p, 414, "the request's target is too long");
  int err = add_text(p, at, len);
  if (err == 0)
    p->target.len += len;
  return err;
}

static int on_name(llhttp_t *http, const char *at, size_t len) {
  es_parser *p = http->data;
  if (p->head_done)
    return 0; /* trailers are read and dropped */
  if (p->text_len + len > p->header_bytes)
    return refuse(p, 431, "the request's headers are too large");
  if (p->in != IN_NAME) {
    if (p->line_count == HEADERS_MAX)
      return refuse(p, 431, "the request has too many headers");
    if (p->line_count == p->line_size) {
      size_t size = p->line_size > 0 ? p->line_size * 2 : 16;
      line *lines = realloc(p->lines, size * sizeof *lines);
      if (lines == NULL)
        return refuse(p, 500, "out of memory");
      p->lines = lines;
      p->line_size = size;
    }
    p->lines[p->line_count++] = (line){.name = {p->text_len, 0}};
    p->in = IN_NAME;
  }
  int err = add_text(p, at, len);
  if (err == 0)
    p->lines[p->line_count - 1].name.len += len;
  return err;
}

static int on_value(llhttp_t *http, const char *at, size_t len) {
  es_parser *p = http->data;
  if (p->head_done)
    return 0;
  if (p->in == IN_NOTHING)
    return refuse(p, 400, "a header without a name");
  if (p->text_len + len > p->header_bytes)
    return refuse(p, 431, "the request's headers are too large");
  line *current = &p->lines[p->line_count - 1];
  if (p->in != IN_VALUE) {
    current->value = (span){p->text_len, 0};
    p->in = IN_VALUE;
  }
  int err = add_text(p, at, len);
  if (err == 0)
    current->value.len += len;
  return err;
}

static int on_value_end(llhttp_t *http) {
  es_parser *p = http->data;
  p->in = IN_NOTHING;
  return 0;
}

static bool is_text(const char *text, size_t len, const char *wanted) {
  return strlen(wanted) == len && es_same_text(text, wanted, len);
}

/* The characters of a host and port (RFC 3986, 3.2.2); that they make sense is the app's to say. */
static bool is_host(const char *text, size_t len) {
  for (size_t i = 0; i < len; i++) {
    char c = text[i];
    bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!alnum && (c == '\0' || strchr("-._~!$&'()*+,;=:[]%", c) == NULL))
      return false;
  }
  return true;
}

/* What may be asked for: a path, an absolute URI that names a host, or everything there is (RFC 9112, 3.2). */
static bool is_target(const char *text, size_t len) {
  if (len == 0 || memchr(text, '#', len) != NULL || (text[0] == '*' && len > 1))
    return false;
  if (text[0] == '/' || text[0] == '*')
    return true;
  size_t at = 0;
  while (at + 3 < len && memcmp(text + at, "://", 3) != 0)
    at++;
  size_t host = at + 3, end = host;
  while (end < len && text[end] != '/' && text[end] != '?')
    end++;
  return end > host && is_host(text + host, end - host);
}

/* llhttp knows other protocols with such heads, too. */
static bool is_http(uint64_t window) {
  return window >> 8 == 0x485454502f312eULL; /* "HTTP/1." and a digit */
}

static int on_head(llhttp_t *http) {
  es_parser *p = http->data;
  int hosts = 0, codings = 0;
  bool chunked = true, bad_host = false, nameless = false, expects = false;
  p->head_done = true;
  p->body_max = p->body_bytes;
  for (size_t i = 0; i < p->line_count; i++) {
    line *l = &p->lines[i];
    char *name = p->text + l->name.at, *value = p->text + l->value.at;
    for (size_t k = 0; k < l->name.len; k++) {
      if (name[k] >= 'A' && name[k] <= 'Z')
        name[k] = (char)(name[k] + 32);
    }
    while (l->value.len > 0 && (value[l->value.len - 1] == ' ' || value[l->value.len - 1] == '\t'))
      l->value.len--; /* RFC 9110, 5.5: white space around a value is no part of it */
    nameless = nameless || l->name.len == 0;
    if (is_text(name, l->name.len, "host")) {
      hosts++;
      bad_host = bad_host || !is_host(value, l->value.len);
    } else if (is_text(name, l->name.len, "transfer-encoding")) {
      codings++;
      chunked = chunked && is_text(value, l->value.len, "chunked");
    } else if (is_text(name, l->name.len, "expect") && http->http_minor > 0) {
      p->wants_continue = is_text(value, l->value.len, "100-continue");
      expects = expects || !p->wants_continue;
    }
  }
  if (http->http_major != 1 || !is_http(p->look.window))
    return refuse(p, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
  if (http->method == HTTP_CONNECT) /* what follows it would be no HTTP */
    return refuse(p, 501, "CONNECT is not implemented");
  if (nameless)
    return refuse(p, 400, "a header without a name");
  if (!is_target(p->text + p->target.at, p->target.len))
    return refuse(p, 400, "the request's target is malformed");
  if (hosts > 1 || bad_host || (hosts == 0 && http->http_minor > 0)) /* RFC 9112, 3.2 */
    return refuse(p, 400, "an HTTP/1.1 request has one Host header, which names a host");
  /* Where two readers could see two ends of a body, a request can be smuggled (RFC 9112, 6.1 and 11.2). */
  if (codings > 0 && (http->flags & F_CONTENT_LENGTH))
    return refuse(p, 400, "a body has a length or a coding, not both");
  if (codings > 1 || (codings == 1 && (!chunked || http->http_minor == 0)))
    return refuse(p, 400, "the only transfer coding that is understood is chunked");
  if (expects)
    return refuse(p, 417, "the only expectation that is understood is 100-continue");
  bool sized = (http->flags & (F_CONTENT_LENGTH | F_TRANSFER_ENCODING | F_CHUNKED)) != 0;
  if (!sized && http->http_minor == 0 && (http->method == HTTP_POST || http->method == HTTP_PUT))
    return refuse(p, 411, "the length of the request's body is not told");
  if (http->flags & F_CONTENT_LENGTH) {
    if (http->content_length > p->body_bytes)
      return refuse(p, 413, "the request's body is too large");
    p->body_max = (size_t)http->content_length;
    if (p->budget != NULL && !es_budget_allows(p->budget, p->body_max)) /* there is no use in its coming */
      return refuse(p, 503, "the server is full");
  }
  if (!sized || ((http->flags & F_CONTENT_LENGTH) != 0 && http->content_length == 0))
    p->wants_continue = false;
  return 0;
}

static int on_body(llhttp_t *http, const char *at, size_t len) {
  es_parser *p = http->data;
  if (len > p->body_max - p->body_len)
    return refuse(p, 413, "the request's body is too large");
  if (len > p->body_size - p->body_len) {
    size_t size = p->body_size > 0 ? p->body_size : BODY_FIRST;
    while (size - p->body_len < len)
      size *= 2;
    if (size > p->body_max)
      size = p->body_max;
    if (grow_body(p, size) != 0)
      return HPE_USER;
  }
  memcpy(p->body + p->body_len, at, len);
  p->body_len += len;
  p->wants_continue = false;
  return 0;
}

static int on_chunk(llhttp_t *http) {
  es_parser *p = http->data;
  if (http->content_length > p->body_bytes - p->body_len)
    return refuse(p, 413, "the request's body is too large");
  if (http->content_length > 0)
    return 0;
  p->trailing = true;
  p->look = (layout){.begun = true};
  return HPE_PAUSED;
}

/* Splits a target into path and query. The absolute form loses its scheme and authority (RFC 9112, 3.2.2). */
static void split_target(es_request *r) {
  const char *at = r->target.ptr, *end = at + r->target.len;
  static const char root[] = "/";
  if (at < end && *at != '/' && *at != '*') {
    const char *scheme = at;
    while (scheme + 2 < end && memcmp(scheme, "://", 3) != 0)
      scheme++;
    at = scheme + 2 < end ? scheme + 3 : end;
    while (at < end && *at != '/' && *at != '?')
      at++;
  }
  const char *mark = at < end ? memchr(at, '?', (size_t)(end - at)) : NULL;
  const char *stop = mark != NULL ? mark : end;
  r->path = stop > at ? (es_slice){at, (size_t)(stop - at)} : (es_slice){root, 1};
  if (mark != NULL)
    r->query = (es_slice){mark + 1, (size_t)(end - mark - 1)};
}

/* One allocation holds the request, its headers and their text, just as large as they are: it lives as long as the
 * stream does. */
static es_request *new_request(const es_parser *p) {
  const llhttp_t *http = &p->http;
  es_request *r = malloc(sizeof *r + p->line_count * sizeof(es_header) + p->text_len);
  if (r == NULL)
    return NULL;
  es_header *headers = (es_header *)(r + 1);
  char *text = (char *)(headers + p->line_count);
  if (p->text_len > 0)
    memcpy(text, p->text, p->text_len);
  *r = (es_request){.refs = 1, .headers = headers, .header_count = p->line_count};
  const char *method = llhttp_method_name((llhttp_method_t)http->method);
  r->method = (es_slice){method, strlen(method)};
  r->target = (es_slice){text + p->target.at, p->target.len};
  split_target(r);
  for (size_t i = 0; i < p->line_count; i++) {
    line *l = &p->lines[i];
    headers[i].name = (es_slice){text + l->name.at, l->name.len};
    headers[i].value = (es_slice){text + l->value.at, l->value.len};
  }
  r->minor = http->http_minor;
  r->keep_alive = llhttp_should_keep_alive(http) != 0;
  r->head = http->method == HTTP_HEAD;
  return r;
}

static int on_done(llhttp_t *http) {
  es_parser *p = http->data;
  es_request *r = new_request(p);
  if (r == NULL)
    return refuse(p, 500, "out of memory");
  r->body_memory = p->body;
  r->body = (es_slice){p->body, p->body_len};
  if (p->budget != NULL)
    p->budget->used -= p->body_size - p->body_len;
  p->body = NULL;
  p->body_size = 0;
  p->request = r;
  return HPE_PAUSED; /* what follows belongs to the next request */
}

static const llhttp_settings_t settings = {
    .on_message_begin = on_begin,
    .on_url = on_url,
    .on_header_field = on_name,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_end,
    .on_headers_complete = on_head,
    .on_chunk_header = on_chunk,
    .on_body = on_body,
    .on_message_complete = on_done,
};

/* Ready for the next request; keeps the buffers. */
static void reset(es_parser *p) {
  /* llhttp takes its settings without const, and does not write to them */
  llhttp_init(&p->http, HTTP_REQUEST, (llhttp_settings_t *)(uintptr_t)&settings);
  p->http.data = p;
  p->text_len = p->fed = p->extra = p->line_count = p->body_len = p->body_size = 0;
  p->target = (span){0, 0};
  p->in = IN_NOTHING;
  p->look = (layout){.first = true};
  p->begun = p->head_done = p->wants_continue = p->trailing = false;
}

es_parser *es_parser_new(size_t header_bytes, size_t body_bytes, es_budget *budget) {
  es_parser *p = calloc(1, sizeof *p);
  if (p == NULL)
    return NULL;
  p->header_bytes = header_bytes;
  p->body_bytes = body_bytes;
  p->budget = budget;
  reset(p);
  return p;
}

void es_parser_free(es_parser *p) {
  if (p == NULL)
    return;
  if (p->budget != NULL)
    p->budget->used -= p->body_size + (p->request != NULL ? p->request->body.len : 0);
  es_request_unref(p->request);
  free(p->text);
  free(p->lines);
  free(p->body);
  free(p);
}

static es_parse fail(es_parser *p, int status, const char *reason) {
  refuse(p, status, reason);
  return ES_PARSE_ERROR;
}

/* Gives llhttp a piece; *taken grows by what it took. */
static es_parse execute(es_parser *p, const char *bytes, size_t size, size_t *taken) {
  llhttp_errno_t err = llhttp_execute(&p->http, bytes, size);
  switch (err) {
  case HPE_OK:
    *taken += size;
    return ES_PARSE_MORE;
  case HPE_PAUSED:
    *taken += (size_t)(llhttp_get_error_pos(&p->http) - bytes);
    if (p->request != NULL)
      return ES_PARSE_DONE;
    llhttp_resume(&p->http);
    return ES_PARSE_MORE;
  case HPE_USER:
    return fail(p, 400, "bad request");
  case HPE_INVALID_VERSION:
  case HPE_PAUSED_H2_UPGRADE:
    return fail(p, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
  default:
    return fail(p, 400, llhttp_get_error_reason(&p->http));
  }
}

/* Looks at the lines of a head or a trailer, up to its end. A line must end with CRLF, where another reader could see none, or
 * two; none goes on in the next one, and no two spaces stand in the first (RFC 9112, 2.2, 3 and 5.2). Returns how many
 * bytes are fine; *why is set where the one behind them is not. */
static size_t check_lines(layout *look, const char *bytes, size_t size, const char **why) {
  for (size_t i = 0; i < size && !look->ended; i++) {
    char c = bytes[i];
    if (c == '\n') {
      if (look->last != '\r') {
        *why = "a line must end with CR and LF";
        return i;
      }
      look->ended = look->begun && look->len == 1;
      if (look->len > 1) {
        look->first = false;
        look->begun = true;
      }
      look->len = 0;
    } else {
      if (look->first && look->len > 0 && c == ' ' && look->last == ' ')
        *why = "the request line has one space between its parts";
      else if (!look->first && look->len == 0 && (c == ' ' || c == '\t'))
        *why = "a header must stand on one line";
      if (*why != NULL)
        return i;
      if (look->first && c != '\r')
        look->window = look->window << 8 | (uint8_t)c;
      look->len++;
    }
    look->last = c;
  }
  return size;
}

/* The same for bytes that llhttp is given then; what it finds wrong before comes first. */
static es_parse feed_lines(es_parser *p, const char *bytes, size_t size, size_t *taken) {
  const char *why = NULL;
  size_t fine = check_lines(&p->look, bytes, size, &why);
  es_parse result = fine > 0 ? execute(p, bytes, fine, taken) : ES_PARSE_MORE;
  return result == ES_PARSE_MORE && why != NULL ? fail(p, 400, why) : result;
}

/* A head, up to the limit: it is then too large however it is cut. */
static es_parse feed_head(es_parser *p, const char *bytes, size_t size, size_t *taken) {
  size_t room = p->header_bytes - p->fed, piece = size < room ? size : room;
  p->fed += piece;
  es_parse result = feed_lines(p, bytes, piece, taken);
  if (result == ES_PARSE_MORE && !p->head_done && piece < size)
    return p->line_count == 0 ? fail(p, 414, "the request's target is too long")
                              : fail(p, 431, "the request's headers are too large");
  return result;
}

static es_parse feed_body(es_parser *p, const char *bytes, size_t size, size_t *taken) {
  size_t before = *taken, body = p->body_len;
  es_parse result = ES_PARSE_MORE;
  if (!p->trailing)
    result = execute(p, bytes + before, size - before, taken);
  if (result == ES_PARSE_MORE && p->trailing && *taken < size)
    result = feed_lines(p, bytes + *taken, size - *taken, taken);
  size_t rest = *taken - before, grown = p->body_len - body;
  p->extra += rest > grown ? rest - grown : 0;
  if (result != ES_PARSE_ERROR && p->extra > p->header_bytes + CHUNK_EXTRA * p->body_len)
    return fail(p, 413, "what surrounds the request's body is too large");
  return result;
}

es_parse es_parser_feed(es_parser *p, const char *bytes, size_t size, size_t *taken) {
  es_parse result = ES_PARSE_MORE;
  bool had_head = p->head_done;
  *taken = 0;
  if (p->status != 0)
    return ES_PARSE_ERROR;
  if (!had_head && size > 0)
    result = feed_head(p, bytes, size, taken);
  if (result == ES_PARSE_MORE && *taken < size)
    result = feed_body(p, bytes, size, taken);
  if (result == ES_PARSE_MORE && p->head_done && !had_head && p->wants_continue)
    return ES_PARSE_CONTINUE;
  return result;
}

bool es_parser_begun(const es_parser *p) {
  return p->begun;
}

bool es_parser_has_head(const es_parser *p) {
  return p->head_done;
}

es_request *es_parser_take(es_parser *p) {
  es_request *r = p->request;
  p->request = NULL;
  reset(p);
  return r;
}

es_request *es_parser_take_head(es_parser *p) {
  es_request *r = new_request(p);
  if (r != NULL)
    r->keep_alive = false; /* what follows is the rest of its body */
  return r;
}

es_slice es_parser_header(const es_parser *p, const char *name) {
  size_t whole = p->line_count - (p->in != IN_NOTHING ? 1 : 0); /* of the last one, more may come */
  for (size_t i = 0; i < whole; i++) {
    const line *l = &p->lines[i];
    if (!is_text(p->text + l->name.at, l->name.len, name))
      continue;
    es_slice value = {p->text + l->value.at, l->value.len};
    while (value.len > 0 && (value.ptr[value.len - 1] == ' ' || value.ptr[value.len - 1] == '\t'))
      value.len--;
    return value;
  }
  return (es_slice){NULL, 0};
}

int es_parser_status(const es_parser *p) {
  return p->status;
}

const char *es_parser_reason(const es_parser *p) {
  return p->reason != NULL ? p->reason : "bad request";
}
