/* platform: the socket calls that differ between systems. What is Linux only stands here, the POSIX way beside it. */
#ifndef ES_NET_PLATFORM_H
#define ES_NET_PLATFORM_H

#include <stddef.h>
#include <sys/socket.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* SIGPIPE is ignored as a whole there */
#endif

/* What uv_poll watches of a socket whose peer has shut its half, so that errors and hang-ups are told, and that half is
 * not for ever. Elsewhere that is nothing, and such a peer is seen to have left when it is written to. */
#ifdef __linux__
#define ES_WATCH_SHUT UV_PRIORITIZED
#else
#define ES_WATCH_SHUT 0
#endif

/* A new non-blocking, close-on-exec socket, or a negative errno. */
int es_platform_socket(int family);

/* Accepts one connection, non-blocking and close-on-exec: its descriptor, or a negative errno. */
int es_platform_accept(int fd, struct sockaddr_storage *address);

/* Makes an inherited descriptor non-blocking and close-on-exec: 0 or a negative errno. */
int es_platform_adopt(int fd);

/* A second descriptor of the same, from a number on; or a negative errno. */
int es_platform_duplicate(int fd, int from);

/* A descriptor that is of no use but to be closed, or a negative errno. */
int es_platform_spare(void);

/* The path of an open descriptor, without links: 0 or a negative errno (ENOSYS: this system cannot tell). */
int es_platform_path(int fd, char *path, size_t room);

/* The nanoseconds of the second in which a file was changed. */
struct stat;
long es_platform_mtime_ns(const struct stat *status);

/* What every TCP connection gets: no Nagle, a small unsent queue, keep-alive, and an end to peers that are gone. Each
 * is a help and none a need, so failures are passed over. */
void es_platform_tune(int fd);

/* Raises the soft limit of descriptors to the hard one; returns the limit in force, or 0 when it is not known. */
size_t es_platform_raise_descriptors(void);

/* How long bytes may stay unanswered before the kernel gives a peer up; ES_PATIENCE_SECONDS to begin with. */
#define ES_PATIENCE_SECONDS 60
void es_platform_set_patience(int fd, double seconds);

/* A set of sockets of which it is to be told when the peer has shut its side or is gone, whatever lies unread before
 * that: a descriptor, or a negative errno (ENOSYS: not on this system). */
int es_platform_hangups(void);

/* 0, or a negative errno. data is what gone tells. */
int es_platform_hangups_add(int set, int fd, void *data);
void es_platform_hangups_remove(int set, int fd);

/* Tells up to max whose peers have gone, again and again until they are removed; how many. Does not wait. */
size_t es_platform_hangups_gone(int set, void **gone, size_t max);

/* Makes the close that follows a reset: what the kernel still holds is dropped. */
void es_platform_reset(int fd);

#endif
