#include "core/cors.h"

#include "check.h"

static es_slice text(const char *text) {
  return (es_slice){text, strlen(text)};
}

/* Into memory of exactly the room that was asked for: a byte behind it is seen by the sanitizer. */
static void writes(const es_cors *cors, const char *origin, bool own, const char *wanted) {
  es_slice asked = origin != NULL ? text(origin) : (es_slice){NULL, 0};
  size_t room = es_cors_room(cors, asked), len = strlen(wanted);
  char *at = malloc(room + 1);
  size_t written = (size_t)(es_cors_write(at, cors, asked, own) - at);
  CHECK(written <= room);
  CHECK(written == len && memcmp(at, wanted, len) == 0);
  free(at);
}

static void lists(const es_cors *cors, const char *origin, bool wanted) {
  CHECK(es_cors_lists(cors, text(origin)) == wanted);
}

int main(void) {
  es_cors none = {0};
  writes(&none, "https://a.example", false, "");
  CHECK(es_cors_room(&none, text("https://a.example")) == 0);

  es_cors any = {.on = true, .any = true};
  writes(&any, NULL, false, "Access-Control-Allow-Origin: *\r\n");
  writes(&any, "https://a.example", false, "Access-Control-Allow-Origin: *\r\n");
  writes(&any, "https://a.example", true, "");

  static char origins[] = "https://a.example\0http://LOCALHOST:8080\0https://*.b.example:444\0null";
  static char exposed[] = "X-A, X-B";
  es_cors some = {.on = true, .credentials = true, .origins = origins, .count = 4, .exposed = exposed};
  lists(&some, "https://a.example", true);
  lists(&some, "HTTPS://A.EXAMPLE", true);
  lists(&some, "http://localhost:8080", true);
  lists(&some, "null", true);
  lists(&some, "https://x.b.example:444", true);
  lists(&some, "https://x.y.b.example:444", true);
  lists(&some, "", false);
  lists(&some, "https://a.example.evil", false);
  lists(&some, "https://a.exampl", false);
  lists(&some, "http://a.example", false);
  lists(&some, "https://a.example:443", false);
  lists(&some, "https://.b.example:444", false);
  lists(&some, "https://b.example:444", false);
  lists(&some, "https://evil.example/.b.example:444", false);
  lists(&some, "https://evil.example:1@x.b.example:444", false);
  lists(&some, "https://x.b.example:444.evil.example", false);
  CHECK(!es_cors_lists(&some, (es_slice){NULL, 0}));

  writes(&some, NULL, false, "Vary: Origin\r\n");
  writes(&some, "https://c.example", false, "Vary: Origin\r\n");
  writes(&some, "https://a.example", true, "Vary: Origin\r\n");
  writes(&some, "https://A.example", false,
         "Vary: Origin\r\nAccess-Control-Allow-Origin: https://A.example\r\n"
         "Access-Control-Allow-Credentials: true\r\nAccess-Control-Expose-Headers: X-A, X-B\r\n");
  printf("cors: %d checks passed\n", checks);
  return 0;
}
