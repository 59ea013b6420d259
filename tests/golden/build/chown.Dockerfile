FROM BASE
RUN mkdir -p /etc; echo 'joe:x:1234:5678::/:/bin/sh' >> /etc/passwd; echo 'grp:x:99:' >> /etc/group
COPY --chown=joe a.txt /a
COPY --chown=joe:grp dir /new/deep/d
COPY --chown=7 a.txt /c
COPY --chown=7:8 dir /e
