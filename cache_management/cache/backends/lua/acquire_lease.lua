-- Take a lease that nobody holds; answer a fencing token, or nothing.
-- KEYS: the lease, its token counter. ARGV: owner, milliseconds, milliseconds the counter lives.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
    local token = redis.call('INCR', KEYS[2])
    -- Longer than any lease: a token must not begin anew while an old holder may still write.
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
    return token
end
return false
