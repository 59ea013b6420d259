FROM BASE AS s
RUN mkdir -p /l/d /opt && echo a > /l/a.t && ln -s a.t /l/b.t && echo o > /opt/o && ln -s /opt/o /l/c.t && echo x > /l/d/x && ln -s d /l/d.t && ln -s /l /ll
FROM BASE
COPY --from=s /l/*.t /out/
COPY --from=s /l/b.t /named/
COPY --from=s /ll/a* /through/
COPY lin* /w/
COPY dlin* /dw/
COPY link /l1/
COPY dlink /l2/
COPY dlink/x /l3/
