-- Take a lease that nobody holds; answer a fencing token, or nothing. For a cluster, where a counter beside the lease
-- would lie on another node, and would lose its last steps in a failover: the token is the moment, in microseconds.
-- KEYS: the lease. ARGV: owner, milliseconds.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
    local now = redis.call('TIME')
    return now[1] * 1000000 + now[2]
end
return false
