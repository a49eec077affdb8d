/* entries: the events in a reply to XREAD, as lua/eventstream/redis/entries.lua makes them of tables. */
#ifndef ES_REDIS_ENTRIES_H
#define ES_REDIS_ENTRIES_H

#include <hiredis.h>
#include <lua.h>

/* Pushes a list with nine places for each event, in the order of their numbers; an empty one where the reply is of another
 * shape. What is no event of ours has the kind "?". Fails with Lua's error when memory is out. */
void es_push_entries(lua_State *L, const redisReply *reply);

#endif
