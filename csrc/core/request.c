#include "core/request.h"

#include <stdlib.h>
#include <string.h>

es_request *es_request_ref(es_request *request) {
  request->refs++;
  return request;
}

void es_request_unref(es_request *request) {
  if (request == NULL || --request->refs > 0)
    return;
  free(request->body_memory);
  free(request);
}

const es_header *es_request_header(const es_request *request, const char *name) {
  size_t len = strlen(name);
  for (size_t i = 0; i < request->header_count; i++) {
    const es_header *h = &request->headers[i];
    if (h->name.len == len && memcmp(h->name.ptr, name, len) == 0)
      return h;
  }
  return NULL;
}
